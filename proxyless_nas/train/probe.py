"""A linear probe: the best classifier on top of a network that stays as it is.

Fine-tuning starts from it, since a random classifier would first send large, meaningless gradients through layers that
were trained long (Kumar et al. 2022, "Fine-tuning can distort pretrained features", arXiv 2202.10054).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proxyless_nas.network import ProxylessNet

MOST_ITERATIONS = 200
STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Of the images against the penalty, from which cross-validation chooses."""
SCALES = tuple(2 ** (quarter / 4) for quarter in range(-8, 17))
"""What logits may be multiplied by."""
FOLDS, MOST_VALIDATED = 5, 2000


class Penalty(NamedTuple):
    """How a classifier is fitted: see fit_linear."""

    strength: float = 1.0
    scale: float = 1.0


PLAIN = Penalty()


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


def fit_linear(
    layer: nn.Linear,
    features: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    *,
    trained: Tensor | None = None,
    penalty: Penalty = PLAIN,
) -> None:
    """Set ``layer`` to multinomial logistic regression on ``features``.

    The least sum over the images of w cross-entropy, plus |W|^2 / (2 strength), W the weight matrix: that of
    scikit-learn's LogisticRegression, C = ``strength``. Its logits are then multiplied by ``scale``.

    With ``trained``, the network's former classifier T (its rows centred, as the logits' common shift says nothing),
    |W|^2 is the least |A|^2 + |B|^2 with W = A + B T. It is tr(W (I + T'T)^-1 W'): directions that told former classes
    apart cost less.

    It is convex: L-BFGS from 0, in float64, finds it whatever the scale of the features.

    Args:
        features: (images, layer.in_features).
        labels: int64, (images,).
        class_weights: w, (classes,); 1 without.
        trained: (former classes, layer.in_features).
        penalty: strength, of the images against the penalty, and scale.
    """
    root = _penalty_root(trained, features.shape[1])
    matrix, bias = _fitted(features.double() @ root, labels, layer.out_features, class_weights, penalty.strength)
    with torch.no_grad():
        layer.weight.copy_(penalty.scale * matrix @ root.T)
        layer.bias.copy_(penalty.scale * bias)


def best_penalty(
    features: Tensor,
    labels: Tensor,
    n_classes: int,
    class_weights: Tensor | None,
    trained: Tensor | None,
    rng: np.random.Generator,
) -> Penalty:
    """By FOLDS-fold cross-validation: the least of STRENGTHS within a standard error of the best, and its scale.

    Each strength is judged by the cross-entropy of left-out images at the scale that suits its logits best: a strong
    penalty is unsure, which one number mends. Of those that few images do not tell apart the strongest penalty is
    taken (Breiman et al. 1984, "Classification and regression trees", the one-standard-error rule). Folds have each
    class in proportion. Of more than MOST_VALIDATED images so many are drawn.
    """
    chosen = torch.from_numpy(rng.permutation(len(labels))[:MOST_VALIDATED])
    chosen = chosen[labels[chosen].argsort(stable=True)]
    inputs, answers = _spanned(features[chosen].double() @ _penalty_root(trained, features.shape[1])), labels[chosen]
    weights = class_weights.double().cpu() if class_weights is not None else None
    found = []
    for strength in STRENGTHS:
        logits = _left_out_logits(inputs, answers, n_classes, class_weights, strength)
        losses = torch.stack([F.cross_entropy(scale * logits, answers, weights, reduction="none") for scale in SCALES])
        best = int(losses.mean(1).argmin())
        found.append((losses[best].mean().item(), losses[best].std().item(), Penalty(strength, SCALES[best])))
    least, spread, _ = min(found)
    limit = least + spread / math.sqrt(len(answers))
    return next(penalty for loss, _, penalty in found if loss <= limit)


def _left_out_logits(
    inputs: Tensor, labels: Tensor, n_classes: int, class_weights: Tensor | None, strength: float
) -> Tensor:
    """What classifiers fitted to the other folds say of each image, (images, classes)."""
    fold = torch.arange(len(labels)) % FOLDS
    logits = torch.zeros(len(labels), n_classes, dtype=torch.float64)
    for number in range(min(FOLDS, len(labels))):
        kept, left = fold != number, fold == number
        if kept.any():
            matrix, bias = _fitted(inputs[kept], labels[kept], n_classes, class_weights, strength)
            logits[left] = F.linear(inputs[left], matrix, bias)
    return logits


def _penalty_root(trained: Tensor | None, n_features: int) -> Tensor:
    """The lower triangle R with R R' = I + T'T; see fit_linear. In the features times R the penalty is plain."""
    if trained is None:
        return torch.eye(n_features, dtype=torch.float64)
    centred = trained.double() - trained.double().mean(0)
    return torch.linalg.cholesky(torch.eye(n_features, dtype=torch.float64) + centred.T @ centred)


def _spanned(inputs: Tensor) -> Tensor:
    """The same inner products in as few columns as there are rows."""
    if len(inputs) >= inputs.shape[1]:
        return inputs
    return torch.linalg.qr(inputs.T)[1].T


def _fitted(
    inputs: Tensor, labels: Tensor, n_classes: int, class_weights: Tensor | None, strength: float
) -> tuple[Tensor, Tensor]:
    """(weight matrix, bias) of penalized logistic regression on float64 ``inputs``."""
    count = len(labels)
    weights = class_weights.double().cpu() if class_weights is not None else None
    matrix = torch.zeros(n_classes, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(n_classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [matrix, bias], max_iter=MOST_ITERATIONS, history_size=10, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def data_loss() -> Tensor:
        return F.cross_entropy(F.linear(inputs, matrix, bias), labels, weights, reduction="sum") / count

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = data_loss() + matrix.square().sum() / (2 * strength * count)
        loss.backward()
        return loss

    optimizer.step(objective)
    return matrix.detach(), bias.detach()
