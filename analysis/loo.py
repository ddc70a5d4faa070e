"""Leave one view out: how well is a view predicted from the others, and may that be known without leaving it out?"""

from __future__ import annotations

import math
import warnings

import arviz
import torch
import xarray
from torch import Tensor

from analysis.inference_data import Groups, bundle
from pyro_compvae.evidence.estimate import RELIABLE, log_mean_exp
from pyro_compvae.evidence.pareto import ARVIZ
from pyro_compvae.guide import SceneGuide


class ViewsError(ValueError):
    """Single images have no views to leave out."""


def loo_over_views(groups: Groups) -> xarray.Dataset:
    """PSIS-LOO (Vehtari, Gelman & Gabry 2017) of the views of every scene, by ``arviz.loo``.

    elpd: log p(x_v | x_-v), nats, from draws given all views, reweighted by 1 / p(x_v | z).
    khat: of these weights. A view says much of a scene, so they are uneven; above 0.7, elpd is not to be believed.

    Scenes have no latents in common, so that leaving a whole scene out would say nothing of the guide.

    Args:
        groups: with "log_likelihood" (chain, draw, scene, view) of draws from the true posterior, or nearly.

    Raises:
        ViewsError: for single images.
    """
    log_likelihood = groups["log_likelihood"]["image"]
    if "view" not in log_likelihood.dims:
        raise ViewsError("log_likelihood: expected several views of a scene, one to be left out, got single images")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it warns of k̂, which is reported for every view
        loo = arviz.loo(bundle(groups), pointwise=True, var_name="image")
    elpd = loo.loo_i if ARVIZ < 1 else loo.elpd_i
    coords = {name: log_likelihood[name] for name in ("scene", "view")}
    return xarray.Dataset(
        {
            "elpd": (("scene", "view"), elpd.transpose("scene", "view").values),
            "khat": (("scene", "view"), loo.pareto_k.transpose("scene", "view").values),
        },
        coords,
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
