"""torch.hub.load(THIS_FOLDER, "proxyless_cpu", source="local", pretrained=True): the released networks in PyTorch."""

from proxyless_nas import proxyless_cifar, proxyless_cpu, proxyless_gpu, proxyless_mobile, proxyless_mobile_14

dependencies = ["torch", "numpy", "tqdm"]

__all__ = ["proxyless_cifar", "proxyless_cpu", "proxyless_gpu", "proxyless_mobile", "proxyless_mobile_14"]
