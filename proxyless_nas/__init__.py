"""ProxylessNAS networks in PyTorch. Importing this package never imports TensorFlow."""

from proxyless_nas.network import ProxylessNet, build
from proxyless_nas.zoo import proxyless_cpu, proxyless_gpu, proxyless_mobile, proxyless_mobile_14

__all__ = ["ProxylessNet", "build", "proxyless_cpu", "proxyless_gpu", "proxyless_mobile", "proxyless_mobile_14"]
