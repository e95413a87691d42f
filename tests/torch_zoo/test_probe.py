"""The linear probe against scikit-learn's logistic regression."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from proxyless_nas.network import build
from proxyless_nas.train.probe import Penalty, best_penalty, features_of, fit_linear
from tests.proxyless_arch.nets import three_blocks


def blobs(scale=1.0, n=120):
    """Features of three classes that overlap; the first has most images."""
    rng = np.random.default_rng(0)
    labels = rng.choice(3, n, p=[0.7, 0.2, 0.1])
    return scale * (rng.normal(size=(n, 6)) + 0.7 * np.eye(3, 6)[labels] + 1), labels


@pytest.mark.parametrize("scale", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_it_is_scikit_learns(scale, class_weight):
    features, labels = blobs(scale)
    expected = LogisticRegression(C=1, max_iter=5000, tol=1e-8, class_weight=class_weight).fit(features, labels)
    counts = np.bincount(labels)
    weights = torch.from_numpy(len(labels) / (3 * counts)) if class_weight else None
    layer = nn.Linear(6, 3)
    fit_linear(layer, torch.from_numpy(features).float(), torch.from_numpy(labels), weights)
    with torch.no_grad():
        found = layer(torch.from_numpy(features).float()).softmax(1).numpy()
    np.testing.assert_allclose(found, expected.predict_proba(features), atol=5e-3)


@pytest.mark.parametrize("strength", [0.02, 1.0])
def test_a_former_classifier_makes_its_directions_cheap(strength):
    """As scikit-learn on the features with the former logits beside them, whose columns are added up."""
    features, labels = blobs()
    former = 3 * np.random.default_rng(1).normal(size=(4, 6)) + 5
    centred = former - former.mean(0)
    wide = np.concatenate([features, features @ centred.T], 1)
    expected = LogisticRegression(C=strength, max_iter=5000, tol=1e-9).fit(wide, labels)
    layer = nn.Linear(6, 3)
    tensors = torch.from_numpy(features), torch.from_numpy(labels)
    fit_linear(layer, *tensors, trained=torch.from_numpy(former), penalty=Penalty(strength, 2.0))
    matrix = 2 * expected.coef_[:, :6] + 2 * expected.coef_[:, 6:] @ centred
    np.testing.assert_allclose(layer.weight.detach().numpy(), matrix, atol=2e-3)


@pytest.mark.parametrize(("spread", "low", "high"), [(0.02, 0.0003, 0.03), (40.0, 0.0003, 0.0003)])
def test_the_strongest_penalty_that_does_not_cost_is_taken(spread, low, high):
    """Where the classes are far apart its logits are scaled up; where all is noise nothing is made of them."""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    features = torch.from_numpy(spread * rng.normal(size=(90, 20)) + 5 * np.eye(3, 20)[labels])
    penalty = best_penalty(features, torch.from_numpy(labels), 3, None, None, rng)
    assert low <= penalty.strength <= high
    assert (penalty.scale > 1) == (spread < 1)


def test_features_are_what_the_classifier_sees():
    net = build(three_blocks(), torch.Generator().manual_seed(0))
    images = [torch.randn(n, 3, 11, 11) for n in (4, 2)]
    features, labels = features_of(net, [(each, torch.arange(len(each))) for each in images])
    assert not net.training
    assert labels.tolist() == [0, 1, 2, 3, 0, 1]
    expected = torch.cat([net(each) for each in images])
    torch.testing.assert_close(net.classifier.linear(features), expected)
