"""ProxylessNAS networks in Keras 3 on TensorFlow. Importing this package never imports torch, and prints nothing."""

from proxyless_nas_tensorflow._quiet import import_tensorflow

import_tensorflow()

from proxyless_nas_tensorflow.inference import predict  # noqa: E402
from proxyless_nas_tensorflow.network import ProxylessNet, build  # noqa: E402
from proxyless_nas_tensorflow.zoo import (  # noqa: E402
    decode_predictions,
    load,
    preprocess_input,
    proxyless_cifar,
    proxyless_cpu,
    proxyless_gpu,
    proxyless_mobile,
    proxyless_mobile_14,
)

__all__ = [
    "ProxylessNet",
    "build",
    "decode_predictions",
    "load",
    "predict",
    "preprocess_input",
    "proxyless_cifar",
    "proxyless_cpu",
    "proxyless_gpu",
    "proxyless_mobile",
    "proxyless_mobile_14",
]
