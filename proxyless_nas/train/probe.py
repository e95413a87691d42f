"""A linear probe: the best classifier on top of a network that stays as it is.

Fine-tuning starts from it, since a random classifier would first send large, meaningless gradients through layers that
were trained long (Kumar et al. 2022, "Fine-tuning can distort pretrained features", arXiv 2202.10054).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proxyless_nas.network import ProxylessNet

MOST_ITERATIONS = 200


@torch.no_grad()
def features_of(net: ProxylessNet, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """What the classifier sees of each image, (images, features), and the labels, (images,); on the CPU.

    The network is left in eval mode.
    """
    net.eval()
    device = next(net.parameters()).device
    found = [
        (net.forward_features(images.to(device, non_blocking=True)).mean((2, 3)).float().cpu(), labels)
        for images, labels in batches
    ]
    return torch.cat([features for features, _ in found]), torch.cat([labels for _, labels in found])


def fit_linear(layer: nn.Linear, features: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> float:
    """Set ``layer`` to multinomial logistic regression on ``features``; returns the cross-entropy that it comes to.

    The least sum over the images of w cross-entropy, plus half of the squared norm of the weight matrix (that of
    scikit-learn's LogisticRegression, C = 1). It is convex: L-BFGS from 0, in float64, finds it whatever the scale of
    the features.

    Args:
        features: (images, layer.in_features).
        labels: int64, (images,).
        class_weights: w, (classes,); 1 without.
    """
    inputs, count = features.double(), len(labels)
    weights = class_weights.double().cpu() if class_weights is not None else None
    matrix = torch.zeros(layer.weight.shape, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(layer.bias.shape, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [matrix, bias], max_iter=MOST_ITERATIONS, history_size=10, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def data_loss() -> Tensor:
        return F.cross_entropy(F.linear(inputs, matrix, bias), labels, weights, reduction="sum") / count

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = data_loss() + matrix.square().sum() / (2 * count)
        loss.backward()
        return loss

    optimizer.step(objective)
    with torch.no_grad():
        layer.weight.copy_(matrix)
        layer.bias.copy_(bias)
        return data_loss().item()
