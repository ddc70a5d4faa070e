"""Leave one view out: how well is a view predicted from the others, and may that be known without leaving it out?"""

from __future__ import annotations

import math

import torch
import xarray
from torch import Tensor

from pyro_compvae.evidence.estimate import RELIABLE, log_mean_exp
from pyro_compvae.evidence.pareto import pareto_smoothed
from pyro_compvae.guide import SceneGuide


class ViewsError(ValueError):
    """Single images have no views to leave out."""


def loo_over_views(log_likelihood: xarray.DataArray) -> xarray.Dataset:
    """PSIS-LOO (Vehtari, Gelman & Gabry 2017) of the views of every scene; what ``arviz.loo`` computes, pointwise.

        log p(x_v | x_-v) ≈ log Σ_l w_l p(x_v | z_l) / Σ_l w_l,    w_l = 1 / p(x_v | z_l), Pareto-smoothed

    elpd: that, nats, from draws given all views.
    khat: of the weights. A view says much of a scene, so they are uneven; above 0.7, elpd is not to be believed.

    Scenes have no latents in common, so that leaving a whole scene out would say nothing of the guide.

    Args:
        log_likelihood: (chain, draw, scene, view), nats, of draws from the true posterior, or nearly.

    Raises:
        ViewsError: for single images.
    """
    if "view" not in log_likelihood.dims:
        raise ViewsError("log_likelihood: expected several views of a scene, one to be left out, got single images")
    values = log_likelihood.transpose("chain", "draw", "scene", "view").values
    log_p = torch.from_numpy(values).flatten(0, 1)  # (L, B, V)
    log_weights, khat = pareto_smoothed(-log_p.flatten(1))
    elpd = (log_weights + log_p.flatten(1)).logsumexp(0) - log_weights.logsumexp(0)
    shape = log_p.shape[1:]
    numbers = {"elpd": elpd, "khat": khat}
    return xarray.Dataset(
        {name: (("scene", "view"), value.view(shape).numpy()) for name, value in numbers.items()},
        {name: log_likelihood[name] for name in ("scene", "view")},
    )


@torch.no_grad()
def held_out_views(guide: SceneGuide, images: Tensor, viewpoints: Tensor, num_draws: int = 200) -> xarray.Dataset:
    """Infer each scene anew without the view: what PSIS-LOO is there to avoid, and amortisation makes cheap.

    held_out: log 1/L Σ_l p(x_v | z_l), z_l ~ q(z | x_-v), (scene, view), nats: the guide's own prediction.

    Args:
        guide: of a model of several views.
        images: (B, V, 3, H, W).
        viewpoints: (B, V, 3).
        num_draws: L.

    Raises:
        ViewsError: for a single view, which leaves none.
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
        predictions.append(log_mean_exp(torch.stack(log_p).double()))
    values = torch.stack(predictions, dim=1).cpu().numpy()
    return xarray.Dataset({"held_out": (("scene", "view"), values)})


def loo_table(data: xarray.Dataset) -> str:
    """What leaving views out has shown, in words.

    Args:
        data: as of `loo_over_views` and `held_out_views` together.
    """
    khat, total = data["khat"].values.ravel(), math.prod(data["khat"].shape)
    reliable = int((khat < RELIABLE).sum())
    by_weights, by_guide = (f"{float(data[name].mean()):.1f} nats per view" for name in ("elpd", "held_out"))
    return (
        f"leave one view out: log p(x_v | x_-v) = {by_weights} by PSIS-LOO, k̂ < {RELIABLE} for {reliable} of {total} "
        f"views; {by_guide} when the guide infers the scene without it"
    )
