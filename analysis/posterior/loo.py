"""Leave-one-out over views: how well the others predict a view, and whether that is known without leaving it out."""

from __future__ import annotations

import torch
import xarray
from torch import Tensor

from pyro_compvae.errors import CompvaeError
from pyro_compvae.evidence.estimate import log_mean_exp, reliable_khat
from pyro_compvae.evidence.pareto import pareto_smoothed
from pyro_compvae.guide import SceneGuide


class ViewsError(CompvaeError, ValueError):
    """There are no views to leave out, as in single images."""


def loo_over_views(log_likelihood: Tensor, log_weights: Tensor | None = None) -> xarray.Dataset:
    """PSIS-LOO (Vehtari, Gelman & Gabry 2017) of the views of every scene, pointwise, as ``arviz.loo`` computes it.

        log p(x_v | x_-v) ≈ log Σ_l w_l p(x_v | z_l) / Σ_l w_l,    w_l = w(z_l) / p(x_v | z_l), Pareto-smoothed

    where w = 1 for draws from the posterior given all views, or w are the draws' importance weights (Magnusson et al.
    2019), which is better than resampling them first.

    elpd: the right-hand side, in nats.
    khat: k̂ of the weights w_l. They are uneven, because a view says much about a scene; do not believe elpd if k̂ is
        not small.

    Scenes share no latents, so leaving a whole scene out would say nothing about the guide.

    Args:
        log_likelihood: the log-likelihood of the views, (L, B, V) in nats.
        log_weights: the log weights of the draws, (L, B) in nats.

    Raises:
        ViewsError: for single images.
    """
    if log_likelihood.dim() != 3:
        raise ViewsError(
            "log_likelihood: expected that of several views of a scene, (L, B, V), one to be left out, got "
            f"{tuple(log_likelihood.shape)}"
        )
    log_p = log_likelihood.double()
    ratios = -log_p if log_weights is None else log_weights.double().unsqueeze(-1) - log_p
    smoothed, khat = pareto_smoothed(ratios.flatten(1))
    elpd = (smoothed + log_p.flatten(1)).logsumexp(0) - smoothed.logsumexp(0)
    numbers = {"elpd": elpd, "khat": khat}
    return xarray.Dataset(
        {name: (("scene", "view"), value.view(log_p.shape[1:]).cpu().numpy()) for name, value in numbers.items()},
        attrs={"num_weights": len(log_p)},
    )


@torch.no_grad()
def held_out_views(guide: SceneGuide, images: Tensor, viewpoints: Tensor, num_draws: int = 200) -> xarray.Dataset:
    """Infer each scene anew without the view, which PSIS-LOO avoids, but which amortisation makes cheap.

    held_out: log 1/L Σ_l p(x_v | z_l) with z_l ~ q(z | x_-v), (scene, view) in nats, which is the guide's own
        prediction and low in expectation.
    held_out_ess: the effective number of the L terms.

    Args:
        guide: the guide of a model of several views.
        images: the images (B, V, 3, H, W).
        viewpoints: the viewpoints (B, V, 3).
        num_draws: L, the number of draws.

    Raises:
        ViewsError: for a single view, which would leave none.
    """
    V = images.shape[1] if images.dim() == 5 else 1
    if V < 2:
        raise ViewsError(
            f"images: expected two views or more of every scene, (B, V, 3, H, W), got {tuple(images.shape)}"
        )
    predictions = []
    for v in range(V):
        others = [other for other in range(V) if other != v]
        q = guide.posterior(images[:, others], viewpoints[:, others])
        log_p = [guide.model.likelihood(q.sample(), viewpoints[:, v]).log_prob(images[:, v]) for _ in range(num_draws)]
        predictions.append(torch.stack(log_p).double())
    terms = torch.stack(predictions, dim=2)  # (L, B, V)
    numbers = {"held_out": log_mean_exp(terms), "held_out_ess": 1 / terms.softmax(0).square().sum(0)}
    return xarray.Dataset({name: (("scene", "view"), value.cpu().numpy()) for name, value in numbers.items()})


def loo_table(data: xarray.Dataset) -> str:
    """A sentence on the results of leaving views out.

    Args:
        data: the merged results of `loo_over_views` and `held_out_views`.
    """
    khat = data["khat"].values
    reliable = int((khat < reliable_khat(data.attrs["num_weights"])).sum())
    by_weights, by_guide = (f"{float(data[name].mean()):.1f} nats per view" for name in ("elpd", "held_out"))
    ess = float(data["held_out_ess"].median())
    return (
        f"leave one view out: log p(x_v | x_-v) = {by_weights} by PSIS-LOO, reliable by k̂ for {reliable} of "
        f"{khat.size} views; at least {by_guide} when the guide infers the scene without it (median effective sample "
        f"size {ess:.0f})"
    )
