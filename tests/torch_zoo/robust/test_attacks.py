"""The attacks against closed forms on linear networks, and against what must hold for any network."""

import pytest
import torch
from torch import nn

from proxyless_arch.arch.spec import Preprocessing
from proxyless_nas.robust.amplification import amplification
from proxyless_nas.robust.attacks import answer, apgd, fgsm, look, pgd, r_fgsm, vanishes
from proxyless_nas.robust.ball import Ball, Found, dlr, log_odds, margins, pixel_forward
from proxyless_nas.robust.square import share_at, side_at, square
from tests.compress.nets import trained
from tests.compress.specs import SPEC

N, CLASSES, SIDE = 6, 3, 8


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pixels(seed=0, low=40, high=216, side=SIDE):
    """Images that no step of 20 takes beyond 0 or 255."""
    return torch.randint(low, high, (N, 3, side, side), generator=seeded(seed)).float()


def linear(seed=1, side=SIDE):
    """(N, 3, side, side) -> (N, CLASSES), and its matrix."""
    matrix = torch.randn(CLASSES, 3 * side * side, generator=seeded(seed)) / 100
    return lambda x: x.flatten(1) @ matrix.T, matrix


def two_classes(side=SIDE):
    """A linear network of two classes, whose margin within a ball has a closed form, and images with their labels."""
    forward, matrix = linear(side=side)
    both = lambda x: forward(x)[:, :2]  # noqa: E731
    images = pixels(side=side)
    labels = both(images).argmax(1)
    direction = matrix[labels] - matrix[1 - labels]
    return both, images, labels, direction.view_as(images)


def network(seed=0):
    """A real one, on pixels of 12 x 12, with images that it gets right."""
    forward = pixel_forward(trained(seed=seed).requires_grad_(False), SPEC.preprocessing)
    images = torch.randint(256, (N, 3, 12, 12), generator=seeded(seed)).float()
    return forward, images, forward(images).argmax(1)


ATTACKS = {
    "fgsm": lambda f, ball, y, rng: fgsm(f, ball, y),
    "r_fgsm": r_fgsm,
    "pgd": lambda f, ball, y, rng: pgd(f, ball, y, rng, steps=10, restarts=2),
    "apgd_ce": lambda f, ball, y, rng: apgd(f, ball, y, rng, steps=12, restarts=2),
    "apgd_dlr": lambda f, ball, y, rng: apgd(f, ball, y, rng, loss=dlr, steps=12),
    "square": lambda f, ball, y, rng: square(f, ball, y, rng, queries=30),
}


def test_fgsm_on_a_linear_network_is_its_closed_form():
    forward, images, labels, direction = two_classes()
    found = fgsm(forward, Ball(images, 5), labels)
    assert torch.equal(found.pixels, images - 5 * direction.sign())
    expected = margins(forward(images), labels) - 5 * direction.flatten(1).abs().sum(1)
    torch.testing.assert_close(found.margins, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["pgd", "apgd_ce"])
def test_iterated_attacks_find_the_worst_image_of_a_linear_network(name):
    forward, images, labels, direction = two_classes()
    shift = 2 * direction.flatten(1).abs().sum(1).max()  # so that none is fooled, which would end APGD
    forward_of = lambda x: forward(x) + 20 * shift * nn.functional.one_hot(labels, 2)  # noqa: E731
    found = ATTACKS[name](forward_of, Ball(images, 4), labels, seeded())
    expected = margins(forward_of(images), labels) - 4 * direction.flatten(1).abs().sum(1)
    torch.testing.assert_close(found.margins, expected, rtol=1e-4, atol=1e-3)


def test_square_comes_close_to_the_worst_image_of_a_linear_network_and_keeps_to_its_queries():
    forward, images, labels, direction = two_classes(side=4)
    far = forward(images).abs().max() * 100
    forward_of = lambda x: forward(x) + far * nn.functional.one_hot(labels, 2)[: len(x)]  # noqa: E731
    found = square(forward_of, Ball(images, 10), labels, seeded(), queries=1500)
    least = margins(forward_of(images), labels) - 10 * direction.flatten(1).abs().sum(1)
    reached = (margins(forward_of(images), labels) - found.margins) / (margins(forward_of(images), labels) - least)
    assert reached.min() > 0.95
    assert found.queries.tolist() == [1500] * N


def test_square_asks_no_more_of_an_image_that_fools_the_network():
    forward, images, labels = network()
    found = square(forward, Ball(images, 64), labels, seeded(), queries=200)
    assert (found.margins < 0).all()
    assert found.queries.max() < 200
    assert (share_at(0, 1000), share_at(999, 1000)) == (0.8, 0.8 / 2**9)
    assert side_at(0, 100, 4, 4) == 3
    assert side_at(99, 100, 4, 4) == 1


@pytest.mark.parametrize("steps", [1, 20])
@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_ever_leaves_the_ball_or_the_range_or_whole_steps(name, steps):
    forward, images, labels = network()
    seen = []

    def watching(x):
        seen.append(x.detach().clone())
        return forward(x)

    found = ATTACKS[name](watching, Ball(images, steps), labels, seeded(3))
    for each in (*(x for x in seen if len(x) == N), found.pixels):
        assert (each - images).abs().max() <= steps
        assert each.min() >= 0
        assert each.max() <= 255
        assert torch.equal(each, each.round())
    assert any((x != images).any() for x in seen if len(x) == N)
    torch.testing.assert_close(found.margins, answer(forward, found.pixels, labels), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["pgd", "apgd_ce", "apgd_dlr", "square"])
def test_no_image_ends_above_its_start(name):
    for seed in range(3):
        forward, images, labels = network(seed)
        found = ATTACKS[name](forward, Ball(images, 3), labels, seeded(seed))
        assert (found.margins <= margins(forward(images), labels)).all()


def valley(images, steps):
    """A network of two classes whose loss is highest at a place inside each ball, and that place."""
    inside = images + steps / 2 * (2 * torch.rand(images.shape, generator=seeded(5)) - 1)

    def forward(x):
        distance = ((x - inside) ** 2).flatten(1).mean(1)
        return torch.stack([1 + distance, torch.zeros(len(x))], 1)

    return forward, inside.round()


def test_apgd_is_at_least_as_strong_as_pgd_with_as_many_looks():
    """A step of a fixed size hops about a place inside the ball; one that is halved comes there."""
    images, labels = pixels(7), torch.zeros(N, dtype=torch.int64)
    forward, inside = valley(images, 32)
    ours = apgd(forward, Ball(images, 32), labels, seeded(), steps=60).margins
    theirs = pgd(forward, Ball(images, 32), labels, seeded(), steps=60).margins
    best = answer(forward, inside, labels)
    assert (ours <= theirs).all()
    assert ((ours - best) < 0.1 * (theirs - best)).all()


def test_the_difference_of_logits_ratio_does_not_depend_on_their_size():
    logits = torch.tensor([[3.0, 1.0, -2.0, 0.5], [0.0, 2.0, 1.5, 1.0]])
    labels = torch.tensor([0, 0])
    assert dlr(logits, labels).tolist() == pytest.approx([-(3 - 1) / (3 - 0.5), -(0 - 2) / (2 - 1)])
    torch.testing.assert_close(dlr(1000 * logits, labels), dlr(logits, labels))


def test_log_odds_are_cross_entropy_that_does_not_vanish():
    logits = torch.randn(20, CLASSES, generator=seeded()) * 3
    labels = torch.randint(CLASSES, (20,), generator=seeded(1))
    plain = nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(nn.functional.softplus(log_odds(logits, labels)), plain)
    gradients = []
    for loss in (log_odds, lambda z, y: nn.functional.cross_entropy(z, y, reduction="none")):
        z = logits.double().requires_grad_()
        gradients.append(torch.autograd.grad(loss(z, labels).sum(), z)[0])
    torch.testing.assert_close(gradients[0].sign(), gradients[1].sign())
    torch.testing.assert_close(
        gradients[0] / gradients[0].norm(dim=1, keepdim=True), gradients[1] / gradients[1].norm(dim=1, keepdim=True)
    )
    sure = torch.tensor([[200.0, 0.0, 1.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(log_odds(sure, torch.tensor([0])).sum(), sure)
    assert gradient[0, 0] == -1


def test_a_network_without_gradients_stops_the_white_boxes_and_not_the_black_one():
    forward, images, labels = network()
    masked = lambda x: forward(32 * torch.round(x / 32))  # noqa: E731
    labels = masked(images).argmax(1)
    ball = Ball(images, 24)
    assert vanishes(look(masked, ball, images, labels).gradient).all()
    assert torch.equal(fgsm(masked, ball, labels).pixels, images)
    assert square(masked, ball, labels, seeded(), queries=100).held.sum() < N


def test_attacks_are_a_function_of_their_seed():
    forward, images, labels = network()
    one, other, third = (pgd(forward, Ball(images, 4), labels, seeded(s), steps=2).pixels for s in (1, 1, 2))
    assert torch.equal(one, other)
    assert not torch.equal(one, third)


def test_found_keeps_the_best():
    ball = Ball(pixels(), 3)
    found = Found.of(ball, torch.ones(N))
    found.see(ball.pixels + 1, torch.tensor([0.5, 2, 0.5, 2, 0.5, 2]))
    assert found.margins.tolist() == [0.5, 1] * 3
    assert torch.equal(found.pixels[::2], ball.pixels[::2] + 1)
    assert torch.equal(found.pixels[1::2], ball.pixels[1::2])


def test_amplification_is_the_relative_error_behind_each_layer():
    net = trained().requires_grad_(False)
    images = torch.randint(10, 240, (N, 3, 12, 12), generator=seeded()).float()
    still = amplification(net, images, images)
    assert set(still.means.values()) == {0.0}
    noisy = images + 5
    found = amplification(net, images, noisy)
    assert list(found.means) == [
        "image",
        "first_conv",
        *(f"blocks.{i}" for i in range(5)),
        "feature_mix_layer",
        "classifier",
    ]
    relative = (noisy - images).flatten(1).norm(dim=1) / images.flatten(1).norm(dim=1)
    assert found.means["image"] == pytest.approx(relative.mean().item(), rel=1e-5)
    forward = pixel_forward(net, Preprocessing(resolution=12, resize=12))
    logits = [forward(x) for x in (images, noisy)]
    wanted = ((logits[0] - logits[1]).norm(dim=1) / logits[0].norm(dim=1)).mean().item()
    assert found.means["classifier"] == pytest.approx(wanted, rel=1e-4)
    assert found.plus(found).means == pytest.approx(found.means)
