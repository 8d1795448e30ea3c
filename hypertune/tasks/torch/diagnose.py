"""What goes on inside a network in training, layer by layer, and what is wrong with it in words.

After each epoch a batch of training samples goes through the model once more, forward and back,
with hooks on its layers. Nothing of the training is touched: weights, buffers (the averages of
batch norms), gradients and random numbers are as they were, so that a trial is the same with and
without.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from hypertune.tasks.torch.loop import TensorLoop

_N_SAMPLES = 256
_VANISHED = 1e-4  # gradient of the first layer over the largest one, both root mean square
_EXPLODED = 1e3  # root mean square of a layer's gradient, of a loss that is of the order of 1
_RUN_AWAY = 1e4  # root mean square of a layer's outputs
_DEAD = 0.5  # share of a layer's units that get no gradient from any sample
_SATURATED = 0.75  # share of outputs of tanh and sigmoid at their ends
_UNSCALED = (0.01, 10.0)  # root mean square of what reaches the first layer; scaled inputs have 1
_LEARNED = 0.98  # of the loss of saying the same of every sample
_FITTED = 1e-3  # loss below which there is nothing left to learn
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_PATIENCE = 3  # epochs before it is said that nothing was learned


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer with weights, as one batch found it.

    Attributes:
        name: Within the model.
        kind: Its class.
        output_rms: Root mean square of its outputs; None if they were not seen.
        zero_outputs: Share of its outputs, behind the activation that follows it, that are 0.
        gradient_rms: Of its weights; None if no gradient came.
        weight_rms: Of its weights.
        zero_weights: Share of its weights that are 0.
        change: How much its weights have changed since the look before, relative to them; None at
            the first one.
        dead_units: Share of its units whose weights get no gradient from any sample; None where it
            has no units of that kind.
        frozen: It is not to be trained.
    """

    name: str
    kind: str
    output_rms: float | None
    zero_outputs: float | None
    gradient_rms: float | None
    weight_rms: float
    zero_weights: float
    change: float | None
    dead_units: float | None
    frozen: bool


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What one look at a model gave.

    Attributes:
        epoch: Epochs trained by then.
        loss: Of the batch, without dropout.
        layers: Those with weights, in the order of the model.
        findings: What is wrong, in words; none if nothing is.
    """

    epoch: int
    loss: float
    layers: Sequence[Layer]
    findings: Sequence[str]

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


@dataclass(kw_only=True)
class Seen:
    """What hooks saw of one batch."""

    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    result: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    reached: dict[str, torch.Tensor] = field(default_factory=dict)
    loss: float = math.nan


def look_inside(loop: TensorLoop) -> Seen:
    """Send a batch of training samples through a model, forward and back, and leave it as it was.

    Args:
        loop: A trial.

    Returns:
        Inputs and outputs of all layers without layers inside, by name; by parameter the gradients
        of the loss, and those of a random mix of the outputs.
    """
    model, seen = loop.model, Seen()
    rows = torch.linspace(0, len(loop.train) - 1, min(_N_SAMPLES, len(loop.train))).long()
    rows = rows.to(loop.device)

    def hook(name: str) -> Any:
        def keep(module: nn.Module, given: Any, result: Any) -> None:
            result = result[0] if isinstance(result, tuple) else result  # recurrent layers
            if isinstance(result, torch.Tensor):
                seen.order.append(name)
                seen.outputs[name] = result.detach().float()
            if given and isinstance(given[0], torch.Tensor):
                seen.inputs.setdefault(name, given[0].detach())

        return keep

    hooks = [
        module.register_forward_hook(hook(name))
        for name, module in model.named_modules()
        if not any(True for _ in module.children())
    ]
    try:
        with _untouched(loop), loop.precision:
            model.train()
            for module in model.modules():
                if isinstance(module, _DROPOUTS):
                    module.eval()
                elif isinstance(module, nn.RNNBase):
                    module.dropout = 0.0
            outputs = model(*loop.train[rows])
            loss = loop.loss(outputs, loop.y[rows])
            trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
            seen.gradients = _gradients_of(loss, trained)
            seen.result, seen.loss = outputs.detach().float(), float(loss.detach())
            # What any loss would see: that of a sample which is told for sure has no gradient left.
            some = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0))
            seen.reached = _gradients_of((outputs * some.to(outputs.device)).sum(), trained)
    finally:
        for handle in hooks:
            handle.remove()
    return seen


def _gradients_of(
    value: torch.Tensor, trained: Mapping[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    if not (value.requires_grad and trained):
        return {}
    found = torch.autograd.grad(value, list(trained.values()), allow_unused=True, retain_graph=True)
    return {n: g.detach().float() for n, g in zip(trained, found, strict=True) if g is not None}


@contextlib.contextmanager
def _untouched(loop: TensorLoop) -> Iterator[None]:
    """Leave buffers, modes and random numbers of a trial as they are."""
    model = loop.model
    buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
    modes = [(module, module.training) for module in model.modules()]
    rates = [(m, m.dropout) for m in model.modules() if isinstance(m, nn.RNNBase)]
    devices = [loop.device] if loop.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            for module, rate in rates:
                module.dropout = rate
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    buffer.copy_(buffers[name])


class Diagnostician:
    """Looks at a trial before its first epoch, and after each one.

    Args:
        loop: The trial.
    """

    def __init__(self, loop: TensorLoop) -> None:
        self._loop = loop
        self._constant = _constant_loss(loop)
        self._weights: dict[str, torch.Tensor] = {}  # at the look before
        self._first = _copies(loop.model)
        self._from_epoch = loop.epoch
        self._between_0_and_1 = True  # all outputs so far
        self.last = Diagnosis(epoch=loop.epoch, loss=math.nan, layers=(), findings=())

    def look(self) -> Diagnosis:
        """Return what is seen now."""
        loop = self._loop
        seen = look_inside(loop)
        layers = self._layers(seen)
        findings = [
            *_inputs(loop.model, seen),
            *self._outputs(seen),
            *self._unused(seen),
        ]
        if loop.epoch > 0:
            findings += [
                *_gradients(layers),
                *_units(loop.model, layers, seen),
                *self._unchanged(seen),
            ]
        if (
            loop.epoch >= min(_PATIENCE, loop.n_epochs)
            and not seen.loss < _LEARNED * self._constant
        ):
            findings.append(
                f"not learning: after {loop.epoch} epochs the loss on training samples is "
                f"{seen.loss:.4g}, no better than that of saying the same of every sample "
                f"({self._constant:.4g})"
            )
        self._weights = _copies(loop.model)
        self.last = Diagnosis(epoch=loop.epoch, loss=seen.loss, layers=layers, findings=findings)
        return self.last

    def after_failure(self) -> list[str]:
        """Return what can be said of a trial whose epoch has just failed."""
        broken = [
            name
            for name, p in self._loop.model.named_parameters()
            if not bool(torch.isfinite(p).all())
        ]
        found = list(self.last.findings)
        if broken:
            found.append(
                f"exploding: the weights of {_some(broken)} are not finite any more, after a look "
                f"at epoch {self.last.epoch} with a loss of {self.last.loss:.4g}: a lower learning "
                "rate, or clip_norm, keeps them in bounds"
            )
        return found

    def _layers(self, seen: Seen) -> list[Layer]:
        layers = []
        modules = dict(self._loop.model.named_modules())
        for name, module in modules.items():
            own = dict(module.named_parameters(recurse=False))
            if not own:
                continue
            keys = {n: f"{name}.{n}" if name else n for n in own}
            weights = [p.detach().float() for n, p in own.items() if p.ndim > 1]
            if not weights:
                continue  # norms: they have no weights to vanish
            gradients = [seen.gradients[keys[n]] for n, p in own.items()
                         if p.ndim > 1 and keys[n] in seen.gradients]  # fmt: skip
            before = [self._weights.get(keys[n]) for n, p in own.items() if p.ndim > 1]
            changes = [
                float((w - b).norm() / b.norm().clamp(min=1e-12))
                for w, b in zip(weights, before, strict=True)
                if b is not None
            ]
            output = seen.outputs.get(name)
            behind = _behind(name, modules, seen)
            layers.append(
                Layer(
                    name=name or "model",
                    kind=type(module).__name__,
                    output_rms=None if output is None else _rms([output]),
                    zero_outputs=None if behind is None else float((behind == 0).float().mean()),
                    gradient_rms=_rms(gradients) if gradients else None,
                    weight_rms=_rms(weights),
                    zero_weights=_share_zero(weights),
                    change=max(changes) if changes else None,
                    dead_units=_dead(module, seen.reached.get(keys.get("weight", ""))),
                    frozen=not any(p.requires_grad for p in own.values()),
                )
            )
        return layers

    def _outputs(self, seen: Seen) -> list[str]:
        result, y = seen.result, self._loop.y
        if result.numel() == 0 or y.is_floating_point():
            return []
        inside = bool(((result >= 0) & (result <= 1)).all())
        self._between_0_and_1 &= inside
        if result.shape[1] > 1:
            sums_to_1 = bool(((result.sum(dim=1) - 1).abs() < 1e-3).all())
            if inside and sums_to_1:
                return [
                    "softmax before cross-entropy: the model's outputs are probabilities that sum "
                    "to 1, but the loss takes the softmax itself; leave the model's out"
                ]
        ends = isinstance(dict(self._loop.model.named_modules())[seen.order[-1]], nn.Sigmoid)
        if result.shape[1] == 1 and (
            ends or (self._between_0_and_1 and self._loop.epoch >= _PATIENCE)
        ):
            return [
                "sigmoid before the loss: the model's outputs are all between 0 and 1, but the "
                "loss takes the sigmoid itself; leave the model's out"
            ]
        return []

    def _unused(self, seen: Seen) -> list[str]:
        trained = [n for n, p in self._loop.model.named_parameters() if p.requires_grad]
        unused = [name for name in trained if name not in seen.gradients]
        if not unused:
            return []
        return [
            f"weights that never change: no gradient reaches {_some(unused)}; is it used in "
            "forward(), or detached on the way?"
        ]

    def _unchanged(self, seen: Seen) -> list[str]:
        """Name weights that gradients reach, and that are as they were at the first look."""
        n_epochs = self._loop.epoch - self._from_epoch
        still = [
            name
            for name, p in self._loop.model.named_parameters()
            if name in seen.gradients and p.ndim > 1 and torch.equal(p.detach(), self._first[name])
        ]
        if not still or n_epochs == 0 or seen.loss < _FITTED:
            return []
        zero = all(not seen.gradients[name].any() for name in still)
        why = "their gradients are exactly 0" if zero else "the optimizer does not move them"
        return [
            f"weights that never change: {n_epochs} epoch{'s'[: n_epochs > 1]} left {_some(still)} "
            f"as they were ({why})"
        ]


def _inputs(model: nn.Module, seen: Seen) -> list[str]:
    modules = dict(model.named_modules())
    first = next(
        (n for n in seen.order if any(p.ndim > 1 for p in modules[n].parameters(recurse=False))),
        None,
    )
    x = seen.inputs.get(first or "")
    if x is None or not x.is_floating_point() or isinstance(modules[first or ""], nn.Embedding):
        return []
    size = _rms([x.float()])
    if _UNSCALED[0] <= size <= _UNSCALED[1]:
        return []
    return [
        f"unscaled inputs: what reaches '{first}' has a root mean square of {size:.3g}, where "
        "scaled inputs have one of about 1; the data come scaled, so look at what the model does "
        "to them first"
    ]


def _gradients(layers: Sequence[Layer]) -> list[str]:
    trained = [layer for layer in layers if not layer.frozen and layer.gradient_rms is not None]
    sizes = {layer.name: layer.gradient_rms or 0.0 for layer in trained}
    found = []
    if broken := [name for name, size in sizes.items() if not math.isfinite(size)]:
        found.append(f"exploding: the gradients of {_some(broken)} are not finite")
    elif sizes and max(sizes.values()) > _EXPLODED:
        name = max(sizes, key=lambda name: sizes[name])
        found.append(
            f"exploding: the gradient of '{name}' has a root mean square of {sizes[name]:.3g}"
        )
    elif len(sizes) > 1 and max(sizes.values()) > 0:
        first, top = next(iter(sizes)), max(sizes.values())
        if 0 < sizes[first] < _VANISHED * top:
            found.append(
                f"vanishing: the gradient of the first layer '{first}' is {sizes[first] / top:.1g} "
                "of the largest one; fewer layers, another activation, a norm or other initial "
                "weights keep it up"
            )
    grown = [layer for layer in layers if (layer.output_rms or 0.0) > _RUN_AWAY]
    if grown:
        names = _some([layer.name for layer in grown])
        found.append(f"exploding: the outputs of {names} have a root mean square above 10,000")
    return found


def _units(model: nn.Module, layers: Sequence[Layer], seen: Seen) -> list[str]:
    found = []
    # The last layer's units are the outputs; of weights that are all 0 more is wrong than this.
    hidden = [layer for layer in layers[:-1] if not layer.frozen and layer.weight_rms > 0]
    for layer in hidden:
        if layer.dead_units is not None and layer.dead_units > _DEAD:
            found.append(
                f"dead units: {layer.dead_units:.0%} of '{layer.name}' get no gradient from any "
                "sample; a lower learning rate or a leaky activation keeps them alive"
            )
    for name, module in model.named_modules():
        output = seen.outputs.get(name)
        if output is None or not isinstance(module, nn.Tanh | nn.Sigmoid):
            continue
        ends = output.abs() > 0.99 if isinstance(module, nn.Tanh) else (output - 0.5).abs() > 0.49
        if (share := float(ends.float().mean())) > _SATURATED:
            found.append(
                f"saturated: {share:.0%} of the outputs of '{name}' are at an end of its range, "
                "where its slope is almost 0; smaller initial weights or a norm help"
            )
    return found


def _behind(name: str, modules: dict[str, nn.Module], seen: Seen) -> torch.Tensor | None:
    """Return the outputs behind the activation and the norm that follow a layer."""
    if name not in seen.order:
        return None
    last = name
    for following in seen.order[seen.order.index(name) + 1 :]:
        module = modules[following]
        if any(p.ndim > 1 for p in module.parameters()) or isinstance(module, nn.Dropout):
            break
        last = following
    return seen.outputs.get(last)


def _dead(module: nn.Module, reached: torch.Tensor | None) -> float | None:
    """Return the share of units with weights of their own that no sample moves."""
    if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) or reached is None:
        return None
    return float((reached.flatten(1) == 0).all(dim=1).float().mean())


def _copies(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def _constant_loss(loop: TensorLoop) -> float:
    """Return the least loss on the training targets of saying the same of every sample."""
    y, loss = loop.y, loop.loss
    if y.is_floating_point():
        flat = y.reshape(len(y), -1)
        told = [flat.mean(dim=0), flat.median(dim=0).values]
    else:
        shares = torch.bincount(y).float() / len(y)
        odds = shares.clamp(min=1e-12).log()
        told = [(odds[1:] - odds[0]) if len(odds) == 2 else odds]
    return min(float(loss(row.expand(len(y), -1), y)) for row in told)


def _rms(tensors: Sequence[torch.Tensor]) -> float:
    n = sum(t.numel() for t in tensors)
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors) / max(n, 1))


def _share_zero(tensors: Sequence[torch.Tensor]) -> float:
    n = sum(t.numel() for t in tensors)
    return sum(int((t == 0).sum()) for t in tensors) / max(n, 1)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"'{name}'" for name in names[:3]) + more
