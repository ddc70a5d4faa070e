"""Bars that move while a batch of scenes is computed, and not only when it is done."""

from __future__ import annotations

from tqdm import tqdm

from pyro_compvae.evidence import LogJoint

FORMAT = "{l_bar}{bar}| {n:.1f}/{total} scenes [{elapsed}<{remaining}{postfix}]"
"""A bar with fractions of scenes, and with the time that is left."""

NEARLY = 0.99
"""The share of a batch that is shown while it is not done, at most: the number of evaluations is not quite known."""


class SceneBar(tqdm):
    """A bar of scenes.

    Args:
        total: the number of scenes.
        what: what is computed.
        disable: whether to show nothing.
    """

    def __init__(self, total: int, what: str | None = None, disable: bool = False) -> None:
        super().__init__(total=total, desc=what, disable=disable, bar_format=FORMAT)

    def batch(self, size: int) -> ShowProgress:
        """The progress of the next scenes."""
        return ShowProgress(self, size)


class ShowProgress:
    """The progress of a batch of scenes, told by texts and by the evaluations of its log joint.

    Args:
        bar: the bar of all scenes.
        size: the number of scenes in this batch.
    """

    def __init__(self, bar: tqdm, size: int) -> None:
        self.bar = bar
        self.size = size
        self.share = 0.0
        self.expected = float("inf")

    def __call__(self, text: str) -> None:
        """Show a text beside the bar."""
        self.bar.set_postfix_str(text)

    def expect(self, evaluations: float) -> None:
        """Say about how many evaluations of every scene's log joint the batch takes, as `LogJoint.evaluated` counts."""
        self.expected = evaluations

    def watch(self, log_joint: LogJoint) -> None:
        """Move the bar whenever a log joint has been evaluated."""
        log_joint.evaluated = self._evaluated

    def finish(self) -> None:
        """Move the bar to the end of the batch."""
        self._reach(1.0)

    def _evaluated(self, evaluations: int) -> None:
        self._reach(min(self.share + evaluations / self.expected, NEARLY))

    def _reach(self, share: float) -> None:
        self.bar.update((share - self.share) * self.size)
        self.share = share
