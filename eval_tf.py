"""Score a network on labelled images, with Keras on TensorFlow: proxyless_commands/eval_tf.py."""

from proxyless_commands.eval_tf import main

if __name__ == "__main__":
    raise SystemExit(main())
