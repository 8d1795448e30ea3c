"""Models: shapes, what padding must not change, and what the settings set."""

from typing import Any

import pytest
import torch
from torch import nn

from hypertune.models import CNN, MLP, Recurrent, TemporalCNN, sequence_model

ARCHITECTURES = ["rnn", "gru", "lstm", "gru_attention", "lstm_attention", "conv"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("n_layers", [1, 2])
def test_padding_changes_neither_outputs_nor_gradients(architecture: str, n_layers: int) -> None:
    torch.manual_seed(0)
    model = sequence_model(3, 4, architecture, hidden_size=6, n_layers=n_layers)
    lengths = torch.tensor([7, 2, 1, 5])
    short = torch.randn(4, 7, 3)
    for row, n in zip(short, lengths, strict=True):
        row[n:] = 0.0
    long = torch.cat([short, torch.zeros(4, 9, 3)], dim=1)

    results = []
    for x in (short, long):
        model.zero_grad()
        outputs = model(x, lengths)
        torch.autograd.backward((outputs * torch.arange(4.0)).sum())
        results.append([outputs, *(p.grad for p in model.parameters())])

    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    # Each alone, without any padding, says the same.
    for x, n, row in zip(short, lengths, results[0][0], strict=True):
        torch.testing.assert_close(model(x[None, :n])[0], row)


@pytest.mark.parametrize("architecture", ["rnn", "gru", "lstm", "gru_attention"])
def test_recurrent_models_do_not_even_see_what_comes_after_the_end(architecture: str) -> None:
    model = sequence_model(3, 2, architecture, hidden_size=5)
    x, lengths = torch.randn(2, 6, 3), torch.tensor([6, 3])
    before = model(x, lengths)
    x[1, 3:] = 1e3

    torch.testing.assert_close(model(x, lengths), before)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sequences_without_lengths_are_taken_as_whole(architecture: str) -> None:
    model = sequence_model(3, 2, architecture, hidden_size=5)
    x = torch.randn(4, 6, 3)

    outputs = model(x)

    assert outputs.shape == (4, 2)
    torch.testing.assert_close(outputs, model(x, torch.full((4,), 6)))


def test_attention_can_look_at_any_step() -> None:
    model = Recurrent(1, 1, "rnn", hidden_size=4, pooling="attention")
    x = torch.randn(1, 5, 1, requires_grad=True)
    states = []
    model.rnn.register_forward_hook(lambda module, given, result: states.append(result[0]))
    (gradient,) = torch.autograd.grad(model(x).sum(), x)
    (state,) = states

    assert state.shape == (1, 5, 4)
    assert (gradient.abs() > 0).all()


@pytest.mark.parametrize("model", [MLP, CNN])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_images_give_one_output_a_class(model: Any, norm: str) -> None:
    x = torch.randn(5, 1, 8, 8)

    assert model(input_shape=(1, 8, 8), n_outputs=3, norm=norm, dropout=0.5)(x).shape == (5, 3)


def test_depth_and_breadth_are_those_asked_for() -> None:
    sizes = [
        [
            (p.shape[1], p.shape[0])
            for p in MLP((2, 3), 4, n_units=7, n_layers=n).parameters()
            if p.ndim > 1
        ]
        for n in (0, 1, 3)
    ]

    assert sizes == [[(6, 4)], [(6, 7), (7, 4)], [(6, 7), (7, 7), (7, 7), (7, 4)]]
    filters = [
        p.shape[0] for p in CNN((1, 28, 28), 4, n_filters=3, n_blocks=5).parameters() if p.ndim == 4
    ]
    assert filters == [3, 6, 12, 24, 48]
    assert CNN((1, 8, 8), 4, n_blocks=4)(torch.randn(2, 1, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize(
    ("init", "deviation"),
    [
        ("glorot", (2 / (400 + 400)) ** 0.5),
        ("he", (2 / 400) ** 0.5),
        ("small", 0.01),
        ("large", 1.0),
        ("zero", 0.0),
    ],
)
def test_initial_weights_have_their_deviation_and_biases_are_zero(
    init: str, deviation: float
) -> None:
    torch.manual_seed(0)
    layers = [
        m for m in MLP((400,), 400, n_units=400, init=init).modules() if isinstance(m, nn.Linear)
    ]

    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.02)
        assert not layer.bias.any()


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Recurrent(1, 1, cell="gur"), "cell must be one of gru, lstm, rnn, but got 'gur'"),
        (
            lambda: Recurrent(1, 1, pooling="max"),
            "pooling must be last or attention, but got 'max'",
        ),
        (lambda: sequence_model(1, 1, "cnn"), "architecture must be rnn, gru, lstm"),
        (lambda: sequence_model(1, 1, "gru_max"), "architecture must be rnn, gru, lstm"),
        (lambda: MLP((2,), 1, activation="rleu"), "activation must be one of relu"),
        (lambda: MLP((2,), 1, init="hee"), "init must be one of glorot"),
        (lambda: MLP((2,), 1, norm="group"), "norm must be one of none, batch, layer"),
        (lambda: CNN((1, 8, 8), 1, norm="layer"), "norm must be one of none, batch, group"),
        (lambda: CNN((64,), 1), r"a CNN needs images, but a sample has the shape \(64,\)"),
    ],
)
def test_unknown_names_are_told_with_the_choices(make: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make()


def test_convolution_sees_its_neighbourhood_alone() -> None:
    model = TemporalCNN(1, 1, hidden_size=4, n_layers=1, kernel_size=3)
    outputs: list[torch.Tensor] = []
    model.convs[0].register_forward_hook(lambda module, given, result: outputs.append(result))
    x = torch.zeros(1, 9, 1)
    model(x)
    x[0, 4] = 1.0
    model(x)

    changed = (outputs[1] - outputs[0]).abs().sum(dim=1)[0] > 0
    assert changed.nonzero().flatten().tolist() == [3, 4, 5]
