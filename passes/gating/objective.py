"""The objective of gate training: likeness to the network as it was, under a cost that is to meet its target.

The cost term is λ (cost/whole - target)² of Kim et al. 2020, but for three things. λ is nobody's to guess: it follows
from the share of the gates' gradient that the term is to have (the balancer of EnCodec, Défossez et al. 2022, section
3.4). The target falls gradually. And the term only pulls down: below its target a network is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..channels.gated import Gated
from ..channels.units import Gates
from ..teaching.taught import Taught
from ..training.draws import Draws
from ..training.job import Forward, Group, by_decay
from ..training.schedule import Moment
from .cost import Cost
from .gate import Gate, even_out, task_power

SHARE = 0.5
"""The share of the gates' gradient that the cost term has where the cost is BAND over its target."""
BAND = 0.01
"""Of the whole cost. The gradient of a square grows in proportion: far above its target the cost has its way."""
AJAR = 1e-3
"""Where a gate stands that is opened again: it closes next if the target falls."""
TOO_LARGE = 4
"""How many gates are passed over, when others are opened again, as they alone are worth more than there is room."""
LEAST_PULL = 1e-4
"""What the gradient of the gates is taken to be at least: a network that is compared with itself alone has none."""


@dataclass(frozen=True)
class Ramp:
    """The target at each moment of a training, as a share of the whole cost.

    `start` while the first steps, the share `warm_up` of them, are taken; `end` in the last ones, the share `hold`;
    between them a cubic, fast at first while what goes matters little (Zhu and Gupta 2017, equation 1).
    """

    start: float
    end: float
    warm_up: float = 0.1
    hold: float = 0.3

    def at(self, share: float) -> float:
        """The target when this share of the steps is taken, 0 to 1."""
        falling = 1 - self.warm_up - self.hold
        done = (
            min(1.0, max(0.0, (share - self.warm_up) / falling))
            if falling > 0
            else float(share >= self.warm_up)
        )
        return self.end + (self.start - self.end) * (1 - done) ** 3


@dataclass
class Gating(Taught):
    """Likeness to the teachers of a network whose gates learn along with its weights, under the cost.

    network: taps a `Gated` with a `Gate` for each unit. It trains as it is, BatchNorm by its batches: statistics must
    follow what closes. Keep the last epoch: the best one by a metric is the one with all gates open. gate_lr: factor on
    the learning rate of the weights. evened: whether units get gradients of one size (`even_out`).
    """

    cost: Cost
    ramp: Ramp
    gate_lr: float
    evened: bool = True
    target: float = field(init=False, default=1.0)

    def __post_init__(self) -> None:
        [self.gated] = [module for module in self.network.modules() if isinstance(module, Gated)]
        # By what the loop scales the loss: gradients that were noted are as much larger. A resumed run knows it too.
        self.network.register_buffer("loss_scale", torch.ones(()))

    @property
    def gates(self) -> dict[str, Gate]:
        """The gates that learn, by the name of their unit."""
        pairs = zip(self.gated.units, self.gated.gates, strict=True)
        return {name: gate for name, gate in pairs if isinstance(gate, Gate)}

    def scores(self) -> dict[str, Tensor]:
        """How far each gate is above its threshold, (size,) of each unit on the CPU: what a projection ranks by."""
        return {name: gate.u.detach().cpu().clone() for name, gate in self.gates.items()}

    def groups(self) -> list[Group]:
        """Weights, vectors and gates; the last two do not decay."""
        gates = [gate.u for gate in self.gates.values()]
        own = {id(u) for u in gates}
        rest = (p for p in self.network.parameters() if id(p) not in own)
        return [*by_decay(rest), Group(gates, self.gate_lr, decay=False)]

    def schedule(self, now: Moment) -> None:
        """Lower the target."""
        self.target = self.ramp.at(now.share)

    def training(self, on: bool) -> None:
        """Keep the gates within reach of their thresholds, and as many open as the target leaves room for."""
        super().training(on)
        for gate in self.gates.values():
            gate.bound()
        self._reopen()

    def _reopen(self) -> None:
        """Where more is closed than was asked for, open what closed last, as far as it fits.

        A step may close many gates at once, or a block, and gates do not know of each other.
        """
        names = list(self.gates)
        u = torch.cat([self.gates[name].u.detach().cpu() for name in names])
        closed = [int(i) for i in torch.argsort(u, descending=True, stable=True) if u[i] <= 0]
        if not closed or self._left_at(u) >= self.target:
            return
        for _ in range(TOO_LARGE):
            count = self._most(u, closed)
            u[closed[:count]] = AJAR
            closed = closed[count + 1 :]
        sizes = [len(self.gates[name].u) for name in names]
        with torch.no_grad():
            for name, values in zip(names, torch.split(u, sizes), strict=True):
                self.gates[name].u.copy_(values)

    def _most(self, u: Tensor, closed: Sequence[int]) -> int:
        """How many of the first of the closed gates can be opened without going over the target."""
        fits, over = 0, len(closed) + 1
        while over - fits > 1:
            middle = (fits + over) // 2
            tried = u.clone()
            tried[closed[:middle]] = AJAR
            fits, over = (middle, over) if self._left_at(tried) <= self.target else (fits, middle)
        return fits

    def _left_at(self, u: Tensor) -> float:
        """The share of the cost that is left where the gates, one after another, stand at `u`."""
        sizes = [len(gate.u) for gate in self.gates.values()]
        opened = torch.split((u > 0).double(), sizes)
        return float(self.left(dict(zip(self.gates, opened, strict=True))))

    def loss(
        self, forward: Forward, inputs: tuple[Tensor, ...], labels: Tensor, draws: Draws
    ) -> dict[str, Tensor]:
        """labels, teacher and features without what is closed now, and the cost."""
        if self.evened:
            even_out(list(self.gates.values()))
        return super().loss(forward, inputs, labels, draws)

    def terms(self) -> dict[str, Tensor]:
        """The cost, weighted; none where it is not above its target."""
        gates = list(self.gates.values())
        left = self.left({name: gate.costed() for name, gate in self.gates.items()})
        excess = left - self.target
        device = gates[0].u.device
        if float(excess.detach()) <= 0:
            return {"cost": torch.zeros((), device=device)}
        pulls = torch.autograd.grad(left, [gate.u for gate in gates], retain_graph=True, allow_unused=True)
        pull = torch.stack([each.square().sum() for each in pulls if each is not None]).sum().sqrt()
        scale = self.network.get_buffer("loss_scale")
        task = (task_power(gates).sqrt() / scale).clamp(min=LEAST_PULL)
        weight = SHARE / (1 - SHARE) * task / (2 * BAND * pull).clamp(min=torch.finfo(pull.dtype).tiny)
        term = weight.detach() * excess.square().to(device, weight.dtype)
        term.register_hook(self._note)  # type: ignore[no-untyped-call]
        return {"cost": term}

    def left(self, gates: Gates) -> Tensor:
        """The share of the cost that is left with these gates, a scalar on the CPU."""
        return self.cost.of(gates) / self.cost.whole

    def _note(self, gradient: Tensor) -> None:
        self.network.get_buffer("loss_scale").copy_(gradient)
