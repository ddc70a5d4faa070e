"""Importance sampling of log p(x) on models whose log p(x) is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise, permutations
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from helpers.slot_models import FactorisedGuide, LinearGaussian, SlotMixture
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from pyro_compvae import DecoderConfig, MultiViewSceneModel, SpatialBroadcastDecoder
from pyro_compvae.evidence import (
    EvidenceEstimate,
    importance_log_evidence,
    plain_and_symmetric_log_evidence,
    proposal_log_evidence,
)
from pyro_compvae.evidence.density import LogJoint
from pyro_compvae.evidence.importance import chunk_sizes
from pyro_compvae.evidence.proposals.elliptical import Elliptical
from pyro_compvae.evidence.proposals.symmetric import FactorisedProposal, JointProposal, normal_proposal

B = 3


def assert_estimates(estimate: EvidenceEstimate, truth: Tensor, largest_error: float = 0.05) -> None:
    """Assert estimates within 4 of their own standard errors, which must be small and come from enough draws."""
    assert (estimate.ess > 200).all(), estimate.ess
    assert (estimate.khat < 0.7).all(), estimate.khat
    assert (estimate.standard_error < largest_error).all(), estimate.standard_error
    error = (estimate.log_evidence - truth).abs()
    assert (error < 4 * estimate.standard_error + 1e-9).all(), error / estimate.standard_error


# These tests check the ground truth itself.


def test_linear_gaussian_evidence_and_posterior_agree_with_the_program() -> None:
    """For any z, log p(x, z) − log p(z | x) = log p(x), which shows an error in any of the three."""
    model = LinearGaussian(3, 2)
    x = model.simulate(B)
    z = torch.randn(5, B, 3, 2, dtype=torch.float64)
    ratio = LogJoint(model, x)(z) - model.posterior(x).log_prob(z.flatten(-2))
    torch.testing.assert_close(ratio, model.log_evidence(x).expand(5, B))
    covariance = model.posterior(x).covariance_matrix[0]
    assert covariance[0, 2].abs() > 0.02, "the premise: slots depend on one another"


def test_slot_mixture_evidence_on_a_grid() -> None:
    for scale in (0.1, 0.8):
        model = SlotMixture(2, scale)
        x = model.simulate(B)
        line = torch.linspace(-4.5, 4.5, 301, dtype=torch.float64)
        z = torch.cartesian_prod(line, line).reshape(-1, 1, 2, 1).expand(-1, B, 2, 1)
        integral = LogJoint(model, x)(z).logsumexp(0) + 2 * math.log(9 / 300)
        torch.testing.assert_close(integral, model.log_evidence(x), rtol=0, atol=1e-5)  # the line ends at 4.5


def test_slot_mixture_posterior_has_all_modes() -> None:
    """The evidence is K! times that of one mode, which is the premise of the tests of symmetrisation."""
    for K in (2, 3, 4):
        model = SlotMixture(K, 0.1)
        x = model.simulate(B)
        mode = model.mode(x)
        at_mode = LogJoint(model, x)(mode.loc.unsqueeze(0))[0] - mode.log_prob(mode.loc).sum((1, 2))
        torch.testing.assert_close(at_mode + math.lgamma(K + 1), model.log_evidence(x), rtol=0, atol=0.01)


# These tests check the estimators.


@pytest.mark.parametrize("symmetrise", [False, True])
@pytest.mark.parametrize(("K", "D"), [(1, 2), (2, 1), (3, 2), (5, 2)])
def test_linear_gaussian_evidence_from_a_guide(K: int, D: int, symmetrise: bool) -> None:
    model = LinearGaussian(K, D)
    x = model.simulate(B)
    guide = FactorisedGuide(model, 1.1, 0.3 * torch.linspace(-1, 0.8, K))
    estimate = importance_log_evidence(model, guide, x, num_samples=4000, chunk_size=1000, symmetrise=symmetrise)
    assert_estimates(estimate, model.log_evidence(x))
    assert (model.log_evidence(x) - estimate.elbo > 5 * estimate.standard_error).all(), "the premise: a gap to close"


@pytest.mark.parametrize(("K", "D", "symmetrise"), [(4, 8, False), (8, 4, False), (2, 16, True), (4, 8, True)])
def test_linear_gaussian_evidence_in_32_dimensions(K: int, D: int, symmetrise: bool) -> None:
    model = LinearGaussian(K, D, observed_dim=20, scale=0.2)
    x = model.simulate(B)
    posterior = model.posterior(x)
    # The shift is 0.8 posterior scales, mostly of the first slot, since equal slots would need no permutations.
    loc = posterior.mean + 0.8 / math.sqrt(D) * posterior.scale_tril[:, :, :D].sum(-1)
    proposal = JointProposal(Elliptical(loc, 1.05 * posterior.scale_tril), K)
    estimate = proposal_log_evidence(LogJoint(model, x), proposal, 4000, 1000, symmetrise)
    assert_estimates(estimate, model.log_evidence(x))
    diagonal = FactorisedProposal(
        Elliptical(loc.unflatten(-1, (K, D)), torch.diag_embed(posterior.stddev.unflatten(-1, (K, D))))
    )
    without = proposal_log_evidence(LogJoint(model, x), diagonal, 4000, 1000, symmetrise)
    assert (without.ess < 0.1 * estimate.ess).all(), "the premise: covariance is needed"


@pytest.mark.parametrize("K", [2, 3, 4])
def test_plain_importance_sampling_misses_the_other_modes_and_symmetrised_does_not(K: int) -> None:
    model = SlotMixture(K, 0.1)
    x, guide = model.simulate(B), FactorisedGuide(model, 1.3)
    truth = model.log_evidence(x)
    plain, symmetric = (
        importance_log_evidence(model, guide, x, num_samples=5000, chunk_size=1000, symmetrise=symmetrise)
        for symmetrise in (False, True)
    )
    # The premise: the error is log K!, a hundred of its own standard errors, and nothing in the weights shows it.
    assert_estimates(plain, truth - math.lgamma(K + 1), 0.02)
    assert (plain.log_evidence < truth - 0.5).all()
    assert_estimates(symmetric, truth, 0.02)
    assert (symmetric.log_evidence - truth).abs().max() < 0.05


@pytest.mark.parametrize("scale", [0.1, 1.2])
@pytest.mark.parametrize("K", [2, 3, 4])
def test_symmetrised_elbo_lies_between_elbo_and_evidence_and_gains_at_most_log_factorial(K: int, scale: float) -> None:
    """0 ≤ KL(q ‖ q̄) ≤ log K!, with equality if slots are far apart, and less if they overlap."""
    model = SlotMixture(K, scale)
    x, guide = model.simulate(B), FactorisedGuide(model)
    plain, symmetric = (
        importance_log_evidence(model, guide, x, num_samples=4000, chunk_size=1000, symmetrise=symmetrise)
        for symmetrise in (False, True)
    )
    errors = [estimate.log_weights.std(0) / math.sqrt(4000) for estimate in (plain, symmetric)]
    gap, error = symmetric.elbo - plain.elbo, (errors[0].square() + errors[1].square()).sqrt()
    assert (gap > 4 * error).all()
    assert (gap < math.lgamma(K + 1) + 4 * error + 1e-9).all()
    assert (symmetric.elbo < model.log_evidence(x) + 4 * errors[1] + 1e-9).all()
    if scale == 0.1:
        torch.testing.assert_close(symmetric.elbo, model.log_evidence(x), rtol=0, atol=0.02)
    else:
        assert (gap < 0.95 * math.lgamma(K + 1)).any()


@pytest.mark.parametrize("symmetrise", [False, True])
def test_elbo_misses_the_evidence_by_the_divergence_to_the_posterior(symmetrise: bool) -> None:
    """The divergence between Gaussians is exact; symmetrising equal slots does not change it."""
    model = LinearGaussian(3, 2)
    x, guide = model.simulate(B), FactorisedGuide(model, 1.2)
    estimate = importance_log_evidence(model, guide, x, num_samples=4000, chunk_size=1000, symmetrise=symmetrise)
    q = guide.posterior(x)
    divergence = kl_divergence(
        MultivariateNormal(q.loc.flatten(1), scale_tril=torch.diag_embed(q.scale.flatten(1))), model.posterior(x)
    )
    assert (divergence > 0.1).all()
    error = estimate.elbo - (model.log_evidence(x) - divergence)
    assert (error.abs() < 4 * estimate.log_weights.std(0) / math.sqrt(4000)).all()


def test_iwae_rises_from_elbo_to_evidence() -> None:
    model = LinearGaussian(3, 2)
    x, guide = model.simulate(B), FactorisedGuide(model, 1.2)
    estimate = importance_log_evidence(model, guide, x, num_samples=4096, chunk_size=1024, symmetrise=False)
    bounds = [estimate.iwae(L) for L in (1, 4, 16, 64, 4096)]  # nested groups of the same draws
    assert all((low < high).all() for low, high in pairwise(bounds))
    torch.testing.assert_close(bounds[0], estimate.elbo)
    torch.testing.assert_close(bounds[-1], estimate.log_evidence)
    truth = model.log_evidence(x)
    assert (truth - bounds[0] > 20 * (truth - bounds[3]).abs()).all(), "64 draws close most of the gap"


def explicit_log_joint(model: LinearGaussian, x: Tensor, z: Tensor) -> float:
    """log p(x, z) of one scene and one draw (K, D)."""
    mean = model.bias + sum(model.weight @ slot for slot in z)
    return float(Normal(0.0, 1.0).log_prob(z).sum() + Normal(mean, model.scale).log_prob(x).sum())


class Watched:
    """A program that records its samples at every call."""

    def __init__(self, program: Callable[..., Any]) -> None:
        self.program = program
        self.traces: list[poutine.Trace] = []

    def __call__(self, *arguments: Tensor) -> None:
        self.traces.append(poutine.trace(self.program).get_trace(*arguments))

    def drawn(self, site: str, num_samples: int) -> Tensor:
        """The samples of the last calls, which are vectorised; those before inspect the program."""
        values = [trace.nodes[site]["value"] for trace in self.traces]
        return torch.cat([value for value in values if value.dim() == values[-1].dim()])[-num_samples:]


@pytest.mark.parametrize("symmetrise", [False, True])
def test_weights_are_those_of_an_explicit_computation_scene_by_scene(symmetrise: bool) -> None:
    K, L = 3, 5
    model = LinearGaussian(K, 2)
    x, guide, watched = model.simulate(B), FactorisedGuide(model, 1.3, torch.tensor([0.0, 0.5, -0.8])), Watched(model)
    estimate = importance_log_evidence(watched, guide, x, num_samples=L, chunk_size=2, symmetrise=symmetrise)
    z = watched.drawn("z", L)
    assert estimate.log_weights.shape == (L, B) == z.shape[:2]
    q = guide.posterior(x)
    for sample in range(L):
        for scene in range(B):
            draw = z[sample, scene]
            orders = list(permutations(range(K))) if symmetrise else [tuple(range(K))]
            densities = [
                float(Normal(q.loc[scene], q.scale[scene]).log_prob(draw[list(order)]).sum()) for order in orders
            ]
            log_q = math.log(sum(map(math.exp, densities)) / len(orders))
            expected = explicit_log_joint(model, x[scene], draw) - log_q
            torch.testing.assert_close(float(estimate.log_weights[sample, scene]), expected, rtol=1e-10, atol=0)


def test_log_joint_of_views_is_the_program_scene_by_scene_and_differentiable() -> None:
    """Particles lie to the left of the plates of scenes and views; images are given as (B, V, ...)."""
    V, K, D = 2, 3, 4
    decoder = SpatialBroadcastDecoder(D, (8, 8), DecoderConfig(channels=(6, 6)))
    model = MultiViewSceneModel(decoder, K, view_dim=2).double().eval()
    x, viewpoints = torch.rand(B, V, 3, 8, 8).double(), torch.rand(B, V, 3).double()
    log_joint = LogJoint(model, x, viewpoints)
    assert (log_joint.num_scenes, log_joint.event_shape, log_joint.dtype) == (B, (K, D), torch.float64)
    z = torch.randn(5, B, K, D, dtype=torch.float64, requires_grad=True)
    values = log_joint(z)
    assert values.shape == (5, B)
    for sample in (0, 4):
        for b in range(B):
            alone = poutine.condition(model, {"z": z[sample, b : b + 1]})
            expected = poutine.trace(alone).get_trace(x[b : b + 1], viewpoints[b : b + 1]).log_prob_sum()
            torch.testing.assert_close(values[sample, b], expected)
    (gradient,) = torch.autograd.grad(values[4, 1], z)
    assert gradient[4, 1].abs().min() > 0
    gradient[4, 1] = 0
    assert (gradient == 0).all()


def two_sites(x: Tensor) -> None:
    """x_b ~ N(a_b + Σ z_b, 1/2²), x (B,)."""
    with pyro.plate("scenes", len(x), dim=-1):
        a = pyro.sample("a", dist.Normal(torch.zeros((), dtype=torch.float64), 2.0))
        z = pyro.sample("z", dist.Normal(torch.zeros(2, 1, dtype=torch.float64), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(a + z.sum((-2, -1)), 0.5), obs=x)


def two_sites_guide(x: Tensor) -> None:
    """A guide in which the scale of z depends on the draw of a, which no `posterior` could express."""
    with pyro.plate("scenes", len(x), dim=-1):
        a = pyro.sample("a", dist.Normal(0.6 * x, 1.5))
        rest = (x - a)[..., None, None].expand(*a.shape, 2, 1)
        pyro.sample("z", dist.Normal(0.4 * rest, 0.8).to_event(2))


def views(x: Tensor) -> None:
    """x_bv ~ N(z_b + u_bv, 1/2²), x (B, V), with a latent of the scene and one of every view."""
    with pyro.plate("scenes", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(1, 1, dtype=torch.float64), 1.0).to_event(2))
        with pyro.plate("views", x.shape[1], dim=-2):
            u = pyro.sample("u", dist.Normal(torch.zeros((), dtype=torch.float64), 0.7))
            pyro.sample("x", dist.Normal(z[..., 0, 0] + u, 0.5), obs=x.T)


def views_guide(x: Tensor) -> None:
    with pyro.plate("scenes", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(0.7 * x.mean(-1)[:, None, None], 0.5).to_event(2))
        with pyro.plate("views", x.shape[1], dim=-2):
            pyro.sample("u", dist.Normal(0.6 * (x.T - z[..., 0, 0]), 0.5))


@pytest.mark.parametrize(
    ("model", "guide", "x", "covariance"),
    [
        (two_sites, two_sites_guide, torch.tensor([0.3, -2.0, 4.0]), torch.tensor([[4 + 2 + 0.25]])),
        (
            views,
            views_guide,
            torch.tensor([[0.3, -2.0, 4.0], [1.0, 1.5, 0.2]]),
            torch.ones(3, 3) + (0.49 + 0.25) * torch.eye(3),
        ),
    ],
)
def test_any_pair_whose_sites_lie_in_the_plate(
    model: Callable[..., None], guide: Callable[..., None], x: Tensor, covariance: Tensor
) -> None:
    """There are several latent sites, and plates within the plate; a scene's weights do not depend on other scenes."""
    x = x.double()
    watched = Watched(guide)
    estimate = importance_log_evidence(model, watched, x, num_samples=4000, chunk_size=1000, symmetrise=False)
    marginal = MultivariateNormal(torch.zeros(len(covariance)).double(), covariance.double())
    assert_estimates(estimate, marginal.log_prob(x.reshape(len(x), -1)))
    latent = {name for name in ("a", "z", "u") if name in watched.traces[0]}
    for sample in (0, 1500, 3999):
        for b in range(len(x)):
            values = {}
            for name in latent:
                value = watched.drawn(name, 4000)[sample]
                scenes_dim = -1 - watched.traces[0].nodes[name]["fn"].event_dim
                values[name] = value.narrow(scenes_dim, b, 1)
            alone = x[b : b + 1]
            log_p, log_q = (
                poutine.trace(poutine.condition(program, values)).get_trace(alone).log_prob_sum()
                for program in (model, guide)
            )
            torch.testing.assert_close(estimate.log_weights[sample, b], log_p - log_q)


def test_pyro_autoguides_are_guides() -> None:
    """AutoNormal samples an auxiliary site beside every latent one."""
    model = LinearGaussian(2, 1)
    x = model.simulate(B)
    guide = AutoNormal(model, init_scale=1.0)
    guide(x)
    with pytest.raises(ValueError, match="guide: expected eval mode"):
        importance_log_evidence(model, guide, x, num_samples=10, symmetrise=False)
    estimate = importance_log_evidence(model, guide.eval(), x, num_samples=5000, chunk_size=1000, symmetrise=False)
    assert_estimates(estimate, model.log_evidence(x))


# These tests check the evaluation in chunks.


@pytest.mark.parametrize("symmetrise", [False, True])
def test_no_call_of_the_model_sees_more_than_a_chunk(symmetrise: bool) -> None:
    model = LinearGaussian(2, 1)
    x, guide = model.simulate(B), FactorisedGuide(model, 1.1)
    largest = {}
    for L in (100, 10_000):
        watched = Watched(model)
        estimate = importance_log_evidence(watched, guide, x, num_samples=L, chunk_size=64, symmetrise=symmetrise)
        assert estimate.log_weights.shape == (L, B)
        largest[L] = max(trace.nodes["z"]["value"].numel() for trace in watched.traces)
        assert not estimate.log_weights.requires_grad
    assert largest == {100: 64 * B * 2, 10_000: 64 * B * 2}


@pytest.mark.parametrize("symmetrise", [False, True])
def test_chunks_do_not_change_the_estimate(symmetrise: bool) -> None:
    """Neither the size of chunks nor a smaller last one matters, and draws of different chunks differ."""
    model = LinearGaussian(2, 1)
    x, guide = model.simulate(B), FactorisedGuide(model, 1.2, torch.tensor([0.4, -0.2]))
    for chunk_size in (17, 999, 5000):
        estimate = importance_log_evidence(
            model, guide, x, num_samples=1000, chunk_size=chunk_size, symmetrise=symmetrise
        )
        assert_estimates(estimate, model.log_evidence(x))
        assert len(estimate.log_weights[:, 0].unique()) == 1000


def test_both_densities_weigh_the_same_draws() -> None:
    model = LinearGaussian(3, 2)
    x = model.simulate(B)
    proposal = normal_proposal(FactorisedGuide(model, 1.1, torch.tensor([0.5, 0.0, -1.0])).posterior(x))
    log_joint = LogJoint(model, x)
    together, alone = [], []
    for symmetrise in (False, True):
        torch.manual_seed(1)
        alone.append(proposal_log_evidence(log_joint, proposal, 60, 25, symmetrise).log_weights)
        torch.manual_seed(1)
        together.append(plain_and_symmetric_log_evidence(log_joint, proposal, 60, 25)[symmetrise].log_weights)
    torch.testing.assert_close(together, alone, rtol=0, atol=0)
    # The inequality q̄ ≥ q / K! holds draw by draw.
    assert (alone[1] - alone[0] <= math.lgamma(4) + 1e-12).all()


def test_chunk_sizes() -> None:
    assert chunk_sizes(10, 4) == [4, 4, 2]
    assert chunk_sizes(8, 4) == [4, 4]
    assert chunk_sizes(3, 50) == [3]


# These tests check bad input.


class PlainGuide(nn.Module):
    """A guide of `PLAIN`, with a factor in train mode, or always."""

    def __init__(self, factor: bool | None = None) -> None:
        super().__init__()
        self.factor = factor

    def posterior(self, x: Tensor) -> Normal:
        return Normal(torch.zeros(len(x), 2, 1).double(), 1.0)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("scenes", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, 1).double(), 1.0).to_event(2))
            if self.factor or (self.factor is None and self.training):
                pyro.factor("lnms", z.sum((-2, -1)), has_rsample=True)


def plain(x: Tensor) -> None:
    """x (B,)."""
    with pyro.plate("scenes", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, 1).double(), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(z.sum((-2, -1)), 0.5), obs=x)


def global_latent(x: Tensor) -> None:
    width = pyro.sample("width", dist.LogNormal(0.0, 1.0))
    with pyro.plate("scenes", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, 1).double(), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(z.sum((-2, -1)), width), obs=x)


def other_plate(x: Tensor) -> None:
    with pyro.plate("images", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, 1).double(), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(z.sum((-2, -1)), 0.5), obs=x)


def sequential_plate(x: Tensor) -> None:
    for b in pyro.plate("scenes", len(x)):
        z = pyro.sample(f"z_{b}", dist.Normal(torch.zeros(2, 1).double(), 1.0).to_event(2))
        pyro.sample(f"x_{b}", dist.Normal(z.sum((-2, -1)), 0.5), obs=x[b])


def subsampled(x: Tensor) -> None:
    with pyro.plate("scenes", len(x), subsample_size=2, dim=-1) as chosen:
        z = pyro.sample("z", dist.Normal(torch.zeros(2, 1).double(), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(z.sum((-2, -1)), 0.5), obs=x[chosen])


def subsampled_guide(x: Tensor) -> None:
    with pyro.plate("scenes", len(x), subsample_size=2, dim=-1):
        pyro.sample("z", dist.Normal(torch.zeros(2, 1).double(), 1.0).to_event(2))


def unfinished(x: Tensor) -> None:
    """A model without observed images."""
    with pyro.plate("scenes", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, 1).double(), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(z.sum((-2, -1)), 0.5))


def nothing(x: Tensor) -> None:
    pass


@pytest.mark.parametrize("symmetrise", [False, True])
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (global_latent, r"""model: expected all sites in pyro.plate\("scenes"\), got 'width' outside of it"""),
        (other_plate, r"""model: expected all sites in pyro.plate\("scenes"\), got 'z' outside of it"""),
        (sequential_plate, r"""model: expected all sites in pyro.plate\("scenes"\), got 'z_0' outside of it"""),
        (poutine.scale(plain, scale=0.5), "model: expected sites of scale 1, got 0.5 at 'z'"),
        (nothing, "model: expected sample sites, found none"),
    ],
)
def test_models_without_a_density_per_scene_are_refused(
    model: Callable[..., None], message: str, symmetrise: bool
) -> None:
    with pytest.raises(ValueError, match=message):
        importance_log_evidence(
            model, PlainGuide().eval(), torch.ones(3).double(), num_samples=10, symmetrise=symmetrise
        )


def test_subsampled_models_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model: expected sites of scale 1, got 1\.5 at 'z'; drop subsampling"):
        LogJoint(subsampled, torch.ones(3).double())
    with pytest.raises(ValueError, match=r"model: expected sites of scale 1, got 1\.5 at 'z'; drop subsampling"):
        importance_log_evidence(
            subsampled, PlainGuide().eval(), torch.ones(3).double(), num_samples=10, symmetrise=False
        )


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (PlainGuide(), r"guide: expected eval mode, got train mode; call guide\.eval\(\) first"),
        (PlainGuide(factor=True).eval(), "guide: expected nothing but samples, found the factor 'lnms', .* guide.eval"),
        (plain, "guide: expected nothing but samples, found the observed site 'x'"),
        (poutine.scale(PlainGuide().eval(), scale=0.5), "guide: expected sites of scale 1, got 0.5 at 'z'"),
        (subsampled_guide, "guide: expected sites of scale 1, got 1.5 at 'z'; drop subsampling"),
        (global_latent, r"""guide: expected all sites in pyro.plate\("scenes"\), got 'width' outside of it"""),
        (nothing, "guide: expected sample sites, found none"),
        (two_sites_guide, r"guide: expected to sample the model's latent sites \['z'\], got \['a', 'z'\]"),
    ],
)
def test_guides_that_are_no_proposal_are_refused(guide: Callable[..., None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        importance_log_evidence(plain, guide, torch.ones(3).double(), num_samples=10, symmetrise=False)


def test_what_is_refused_is_accepted_without_its_fault() -> None:
    """Otherwise the errors above might have another cause."""
    for symmetrise in (False, True):
        x = torch.tensor([0.3, -1.0, 2.0]).double()
        estimate = importance_log_evidence(
            plain, PlainGuide().eval(), x, num_samples=5000, chunk_size=1000, symmetrise=symmetrise
        )
        assert_estimates(estimate, Normal(0.0, math.sqrt(2.25)).log_prob(x))


def test_a_train_mode_guide_is_refused_when_symmetrising_too() -> None:
    with pytest.raises(ValueError, match="guide: expected eval mode"):
        importance_log_evidence(plain, PlainGuide(), torch.ones(3).double(), num_samples=10)


@pytest.mark.parametrize("symmetrise", [False, True])
def test_a_train_mode_model_is_refused(symmetrise: bool) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> None:
            plain(x)

    with pytest.raises(ValueError, match=r"model: expected eval mode, got train mode; call model\.eval\(\) first"):
        importance_log_evidence(
            Model(), PlainGuide().eval(), torch.ones(3).double(), num_samples=10, symmetrise=symmetrise
        )


def test_symmetrisation_needs_a_posterior_of_the_slots() -> None:
    x = torch.ones(3).double()
    with pytest.raises(
        ValueError, match=r"guide: expected a method posterior\(.*; function has none.*symmetrise=False"
    ):
        importance_log_evidence(plain, two_sites_guide, x, num_samples=10)

    guide = PlainGuide().eval()
    for wrong in (Normal(torch.zeros(3, 5, 1), 1.0), Normal(torch.zeros(2, 1), 1.0), dist.Normal(0.0, 1.0).to_event(0)):
        guide.posterior = lambda x, wrong=wrong: wrong  # type: ignore[method-assign]
        with pytest.raises(
            ValueError, match=r"guide: expected its posterior to be a Normal of batch shape \(3, 2, 1\)"
        ):
            importance_log_evidence(plain, guide, x, num_samples=10)
    guide.posterior = lambda x: dist.Normal(torch.zeros(3, 2, 1), 1.0).to_event(2)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"guide: expected its posterior to be a Normal .* got Independent"):
        importance_log_evidence(plain, guide, x, num_samples=10)


def test_symmetrisation_needs_a_model_of_nothing_but_slots() -> None:
    with pytest.raises(ValueError, match=r"""expected the latent site "z" and no other, got \['a', 'z'\]"""):
        importance_log_evidence(two_sites, PlainGuide().eval(), torch.ones(3).double(), num_samples=10)
    with pytest.raises(ValueError, match=r"""expected the latent site "z" and no other, got \['z', 'x'\]"""):
        importance_log_evidence(unfinished, PlainGuide().eval(), torch.ones(3).double(), num_samples=10)


@pytest.mark.parametrize("symmetrise", [False, True])
@pytest.mark.parametrize("name", ["num_samples", "chunk_size"])
def test_counts_below_one_are_refused(name: str, symmetrise: bool) -> None:
    counts = {"num_samples": 10, "chunk_size": 5, name: 0}
    with pytest.raises(ValueError, match=f"{name}: expected at least 1, got 0"):
        importance_log_evidence(plain, PlainGuide().eval(), torch.ones(3).double(), symmetrise=symmetrise, **counts)
    proposal = FactorisedProposal(Elliptical(torch.zeros(3, 2, 1).double(), torch.ones(3, 2, 1, 1).double()))
    with pytest.raises(ValueError, match=f"{name}: expected at least 1, got 0"):
        proposal_log_evidence(LogJoint(plain, torch.ones(3).double()), proposal, **counts)


@pytest.mark.parametrize("symmetrise", [False, True])
@pytest.mark.parametrize("validation", [False, True])
def test_nan_is_reported_with_scene_and_site(symmetrise: bool, validation: bool) -> None:
    """Pyro's validation may be on, as by default, or off; NaN may be in the images, the model's mean or the guide."""
    x, guide = torch.tensor([0.3, 1.0, math.nan]).double(), PlainGuide().eval()
    options = {"num_samples": 10, "symmetrise": symmetrise}
    with pyro.validation_enabled(validation):
        with pytest.raises(FloatingPointError, match=r"model: .* got nan at site 'x' for scene 2"):
            importance_log_evidence(plain, guide, x, **options)

        def broken(x: Tensor) -> None:
            with pyro.plate("scenes", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2, 1).double(), 1.0).to_event(2))
                mean = z.sum((-2, -1)) + torch.tensor([0.0, math.nan, 0.0])
                pyro.sample("x", dist.Normal(mean, 0.5), obs=x)

        with pytest.raises(FloatingPointError, match=r"model: .* got nan at site 'x' for scene 1"):
            importance_log_evidence(broken, guide, torch.ones(3).double(), **options)

        loc = torch.zeros(3, 2, 1).double()
        loc[1, 0] = math.nan

        class BrokenGuide(PlainGuide):
            def posterior(self, x: Tensor) -> Normal:
                return Normal(loc, 1.0)

            def forward(self, x: Tensor) -> None:
                with pyro.plate("scenes", len(x), dim=-1):
                    pyro.sample("z", dist.Normal(loc, 1.0).to_event(2))

        with pytest.raises(FloatingPointError, match=r"(model|guide): .* got nan at site 'z' for scene 1"):
            importance_log_evidence(plain, BrokenGuide().eval(), torch.ones(3).double(), **options)
    assert torch.distributions.Distribution._validate_args, "validation is left as it was"


def test_no_weight_at_all_is_evidence_of_zero() -> None:
    """p(x, z) = 0 is a possible density and no error, but the estimate is not reliable."""

    def bounded(x: Tensor) -> None:
        with pyro.plate("scenes", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, 1).double(), 1.0).to_event(2))
            width = torch.ones(()).double()
            pyro.sample("x", dist.Uniform(z.sum((-2, -1)) - width, z.sum((-2, -1)) + width), obs=x)

    x = torch.tensor([0.3, 50.0]).double()
    estimate = importance_log_evidence(bounded, PlainGuide().eval(), x, num_samples=5000, chunk_size=1000)
    mass = Normal(0.0, math.sqrt(2.0)).cdf(x + 1) - Normal(0.0, math.sqrt(2.0)).cdf(x - 1)
    assert 0.02 < (expected := float((mass / 2).log()[0])) + 2 < 2, "the premise"
    assert estimate.standard_error[0] < 0.05
    assert (estimate.log_evidence[0] - expected).abs() < 4 * estimate.standard_error[0]
    assert estimate.log_evidence[1] == -math.inf
    assert not estimate.reliable[1]
