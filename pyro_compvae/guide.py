"""The base class of all guides, with what training and analysis need from them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import pyro
import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.factors import add_term
from pyro_compvae.geco import Geco
from pyro_compvae.lnms import LnmsForm, lnms_factor
from pyro_compvae.models import IMAGES_SCORED, SlotModel
from pyro_compvae.programs import Program, warn_of_train_mode

if TYPE_CHECKING:  # data sets need libraries that guides do without
    from pyro_compvae.data.records import Scene


Weight = float | Tensor
"""A weight of the objective: a number, or a tensor on the device that a schedule changes in place."""


class SceneGuide(Program):
    """A Pyro guide that samples "z" from a posterior which factorises over slots.

    In eval mode it is plain Pyro: nothing but the site "z" in the plate "scenes", and the ELBO of (``model``, guide) is
    a bound on log p(x). In train mode the extra terms of its published objective are factors, and the ELBO of the same
    pair is that objective.

    Attributes:
        model: the generative model, whose parameters are trained along with the guide's.
        kl_weight: β of the training objective. With iterative refinement it is also β of the ELBO whose gradients steer
            the refinement, in train and in eval mode. A training schedule may set it.
        geco: the multiplier that lowers β as far as reconstructions need it, or None. `SceneElbo` and `TrainingStep`
            move it, and no other ELBO or loop does.
        lnms_strength, lnms_scale: s and σ_c of L-NMS in train mode; s = 0 switches it off. A schedule may set s.
        lnms_form: the form of L-NMS (`pyro_compvae.lnms.LnmsForm`). It may be set at any time.
    """

    title: ClassVar[str] = "A guide"
    """What model cards call the guide."""
    metrics_note: ClassVar[str] = ""
    """A sentence for model cards on what the metrics measure; empty for most guides."""
    known_limit: ClassVar[str] = ""
    """A sentence for model cards on what the guide cannot do; empty for most guides."""

    model: SlotModel
    kl_weight: Weight
    lnms_strength: Weight
    lnms_form: LnmsForm = "sum"
    geco: Geco | None

    def __init__(self, model: SlotModel, lnms_strength: float = 0.0, lnms_scale: float = 0.1) -> None:
        super().__init__()
        self.model = model
        self.kl_weight = 1.0
        self.lnms_strength = lnms_strength
        self.lnms_scale = lnms_scale
        self.geco = None

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Run the guide, with a warning if it is in train mode although nothing is being trained."""
        warn_of_train_mode(self)
        return super().__call__(*arguments, **keywords)

    def arguments(self, scene: Scene) -> tuple[Tensor, ...]:
        """The arguments of model and guide for a batch of scenes: the images, and viewpoints if there are several."""
        return (scene.image,)

    @property
    def beta(self) -> Weight:
        """The β in effect: ``kl_weight``, and with GECO ``kl_weight`` / λ."""
        return self.kl_weight if self.geco is None else self.kl_weight / self.geco.multiplier

    def log_likelihood(self, model_trace: Trace, guide_trace: Trace) -> Tensor:
        """log p(x | z) of the images of a training step, (B,) in nats per image, from the traces of model and guide."""
        return model_trace.nodes["x"]["log_prob"]

    @contextmanager
    def planned(self, *arguments: Tensor, generator: torch.Generator | None = None) -> Iterator[Hashable]:
        """Make the decisions that the host makes in train mode beforehand, for the calls in this context, and yield
        them.

        The same decision means the same operations on the device. Workers that share a minibatch decide alike, because
        a step takes as long as the slowest of them.

        Args:
            arguments: the arguments of the calls.
            generator: where random numbers come from; None takes torch's own stream, which differs between workers.
        """
        yield None

    def posterior(self, *arguments: Tensor) -> Normal:
        """q(z | x), batch shape (B, K, D), of images x (B, 3, H, W) in [0, 1] (and viewpoints of several views)."""
        raise NotImplementedError

    def forward(self, *arguments: Tensor) -> Tensor:
        """Sample "z" (B, K, D), in train mode with the terms for β and L-NMS; other objectives override this."""
        q = self.posterior(*arguments)
        with pyro.plate("scenes", len(q.loc), dim=-1):
            z = self._sample(q)
            if self.training:
                self._add_regularisers(q, z)
        return z

    def _sample(self, q: Normal, images_scored: bool = False) -> Tensor:
        """The site "z" of the guide, within the plate "scenes".

        Args:
            q: batch shape (B, K, D).
            images_scored: whether factors of this guide hold the likelihood of the images, so that the model must not
                score them again.
        """
        distribution = pyro.distributions.Normal(q.loc, q.scale).to_event(2)
        infer: Any = {IMAGES_SCORED: images_scored}  # our own key, beside those that Pyro knows
        return pyro.sample("z", distribution, infer=infer)

    def _add_regularisers(self, q: Normal, z: Tensor) -> None:
        """Add s L_NMS(z), and the term that turns the ELBO's KL(q ‖ p) into β KL(q ‖ p); for train mode."""
        if may_differ(self.lnms_strength, 0):
            lnms_factor(z, self.lnms_strength, self.lnms_scale, self.lnms_form, self._presence(q))
        if may_differ(self.beta, 1):
            add_term("kl_weight", (1 - self.beta) * prior_kl(q))

    def _presence(self, q: Normal) -> Tensor | None:
        """The presence of slots, (B, K), where the form of L-NMS weighs pairs by it."""
        return slot_presence(q) if self.lnms_form == "presence" else None


def may_differ(weight: Weight, value: float) -> bool:
    """Whether a weight may differ from the value. A tensor may: reading it from the device would take time."""
    return isinstance(weight, Tensor) or weight != value


def prior_kl(q: Normal) -> Tensor:
    """KL(q ‖ N(0, I)) in nats: batch shape (B, K, D) → (B,)."""
    return slot_kl(q).sum(-1)


def slot_kl(q: Normal) -> Tensor:
    """KL(q_k ‖ N(0, I)) of every slot in nats: batch shape (B, K, D) → (B, K).

    >>> q = Normal(torch.tensor([[[0.0, 0.0], [1.0, 0.0]]]), torch.ones(1, 2, 2))
    >>> slot_kl(q)  # the first slot says nothing
    tensor([[0.0000, 0.5000]])
    """
    return (0.5 * (q.loc.square() + q.scale.square() - 1) - q.scale.log()).sum(-1)


def slot_presence(q: Normal) -> Tensor:
    """How much there is of every slot, 1 − exp(−KL(q_k ‖ N(0, I))), without a gradient: batch shape (B, K, D) → (B, K).

    >>> q = Normal(torch.tensor([[[0.0, 0.0], [3.0, 0.0]]]), torch.ones(1, 2, 2))
    >>> slot_presence(q)
    tensor([[0.0000, 0.9889]])
    """
    return -torch.expm1(-slot_kl(q).detach())
