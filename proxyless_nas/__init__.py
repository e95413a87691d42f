"""ProxylessNAS networks in PyTorch. Importing this package never imports TensorFlow."""

from proxyless_nas.inference import predict
from proxyless_nas.network import FeatureNet, ProxylessNet, build
from proxyless_nas.zoo import load, proxyless_cifar, proxyless_cpu, proxyless_gpu, proxyless_mobile, proxyless_mobile_14

__all__ = [
    "FeatureNet",
    "ProxylessNet",
    "build",
    "load",
    "predict",
    "proxyless_cifar",
    "proxyless_cpu",
    "proxyless_gpu",
    "proxyless_mobile",
    "proxyless_mobile_14",
]
