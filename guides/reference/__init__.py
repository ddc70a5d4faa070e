"""The training losses of IODINE, MONet and MulMON in plain PyTorch, the way public codes write them.

They are an executable specification, without Pyro and without shortcuts in the decoder or the loss. Only MONet's
attention and encoder are the guide's own modules. Slots are broadcast over the image and convolved in full. In IODINE
and MulMON the decoder runs backwards twice per iteration (for the refinement inputs, then for the weights), and all
graphs live until the end. The tests compare the guides with this package, and the benchmark takes it as its baseline.
"""

from pyro_compvae.guides.reference.iodine import plain_iodine_loss
from pyro_compvae.guides.reference.monet import plain_monet_loss
from pyro_compvae.guides.reference.mulmon import plain_mulmon_loss

__all__ = ["plain_iodine_loss", "plain_monet_loss", "plain_mulmon_loss"]
