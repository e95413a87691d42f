"""What a network sees in images, with Keras on TensorFlow: proxyless_commands/predict_tf.py."""

from proxyless_commands.predict_tf import main

if __name__ == "__main__":
    raise SystemExit(main())
