"""Measurement of what detaching the refinement network's inputs leaves out of the training gradient.

``python docs/examples/attached_gradient.py RUN_DIR``, for a run of IODINE or MulMON. On batches of its training scenes,
with the same noise both ways: g is the gradient with detached inputs, g + r that with ``attached_inputs``.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor

from pyro_compvae.analysis import load_run
from pyro_compvae.data import load_scenes
from pyro_compvae.guides.refinement.guide import RefinementGuide


def training_gradient(guide: RefinementGuide, arguments: tuple[Tensor, ...], seed: int, attached: bool) -> Tensor:
    """The gradient of the training loss of a batch with respect to all weights, as one vector."""
    guide.train()
    guide.attached_inputs = attached
    torch.manual_seed(seed)
    loss = TraceMeanField_ELBO()(guide.model, guide)(*arguments)
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, list(guide.parameters()))])


def cosines(vectors: Tensor) -> Tensor:
    """The cosines (N (N − 1) / 2,) of all pairs of different rows of (N, P)."""
    directions = F.normalize(vectors, dim=1)
    first, second = torch.triu_indices(len(vectors), len(vectors), offset=1)
    return (directions @ directions.T)[first, second]


def main(run_dir: str, num_batches: int = 16, batch_size: int = 16) -> dict[str, Tensor]:
    """Print the numbers in a paragraph of docs/mathematics.md."""
    run = load_run(run_dir)
    guide, config = run.guide, run.config
    assert isinstance(guide, RefinementGuide)
    guide.lnms_strength = config.lnms_prior.strength if config.lnms else 0.0
    scenes = load_scenes(config.data, "train", multi_view=config.guide == "mulmon")
    detached, published = [], []
    for seed in range(num_batches):
        batch = guide.arguments(scenes[seed * batch_size : (seed + 1) * batch_size])
        detached.append(training_gradient(guide, batch, seed, attached=False))
        published.append(training_gradient(guide, batch, seed, attached=True))
    g, whole = torch.stack(detached), torch.stack(published)
    rest = whole - g
    found = {
        "cosine of g and g + r, per batch": F.cosine_similarity(g, whole),
        "norm of r over norm of g, per batch": rest.norm(dim=1) / g.norm(dim=1),
        "cosine of g of two batches": cosines(g),
        "cosine of r of two batches": cosines(rest),
        "cosine of the mean g and the mean g + r": F.cosine_similarity(g.mean(0), whole.mean(0), dim=0),
    }
    for name, values in found.items():
        print(f"{name}: {values.mean():.3f} ({values.min():.3f} to {values.max():.3f})")
    return found


if __name__ == "__main__":
    main(sys.argv[1])
