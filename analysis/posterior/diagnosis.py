"""The diagnosis of a run's posterior in stages, each of which is kept in the run folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import torch
from tqdm import tqdm

from pyro_compvae.analysis.calibration.compute import calibrate
from pyro_compvae.analysis.calibration.figure import calibration_figure
from pyro_compvae.analysis.calibration.table import calibration_table
from pyro_compvae.analysis.evidence.compute import EvidenceConfig, in_words, log_joint_and_posterior
from pyro_compvae.analysis.posterior.data_set import (
    bundle,
    draws_to_inference_data,
    groups_of,
    load_groups,
    save_inference_data,
)
from pyro_compvae.analysis.posterior.diagnosis_config import DiagnosisConfig, Stage
from pyro_compvae.analysis.posterior.draws import Draws, guide_draws, importance_draws
from pyro_compvae.analysis.posterior.figure import checks_figure, khat_figure, khats_of, marginals_figure
from pyro_compvae.analysis.posterior.groups import Groups, of_scenes, score
from pyro_compvae.analysis.posterior.loo import held_out_views, loo_over_views, loo_table
from pyro_compvae.analysis.posterior.marginals import agreement
from pyro_compvae.analysis.posterior.nuts import NutsConfig, nuts_draws
from pyro_compvae.analysis.posterior.predictive_checks import checks_table, join_sources, predictive_checks
from pyro_compvae.analysis.progress import SceneBar
from pyro_compvae.analysis.results import (
    IdentityError,
    Settings,
    as_text,
    check_identity,
    is_of,
    make_way,
    read,
    recorded,
    save,
)
from pyro_compvae.analysis.runs import Run
from pyro_compvae.data import SceneSet
from pyro_compvae.errors import ArgumentError
from pyro_compvae.evidence import annealed_from, fit_and_cover
from pyro_compvae.runs.lock import locked

EFFORT = ("fit_steps", "cover_steps", "ais_chains", "ais_temperatures")
"""The settings of importance."""

DIAGNOSES = 1
"""Version of the stages. Raise it whenever the same settings give other numbers."""


class Diagnosis:
    """The stages of a diagnosis, each of which reads the results of earlier stages in the run folder."""

    def __init__(self, config: DiagnosisConfig, run: Run) -> None:
        self.config, self.run = config, run
        self.folder = run.folder
        self.scenes: SceneSet = run.scenes("test")
        self.effort = EvidenceConfig(
            fit_steps=config.fit_steps,
            cover_steps=config.cover_steps,
            ais_chains=config.ais_chains,
            ais_temperatures=config.ais_temperatures,
        )
        self.effort.families_of(run.model.num_slots)  # too many slots are refused before anything is computed
        self.title = run.path.resolve().name

    def run_stages(self) -> Iterator[str]:
        """Run the configured stages in their order, and yield a text on the findings of each.

        Raises:
            LockedError: if another process diagnoses the run.
        """
        with locked(self.folder.path / ".diagnosis.lock"):
            for stage in get_args(Stage):
                if stage in self.config.stages:
                    yield getattr(self, stage)()

    def draws(self) -> str:
        """Draw from the guide and by importance, with k̂ of both, and leave views out."""
        scenes = range(min(self.config.num_scenes, len(self.scenes)))
        digests = self.scenes.part(slice(len(scenes))).digests
        settings = self.settings("num_scenes", "num_draws", "num_chains", *EFFORT, scenes=digests)
        paths = {source: self.posterior(source) for source in ("guide", "importance")}
        views, loo = self.scenes.num_views is not None, self.folder.numbers("loo")
        if not all(is_of(path, settings) for path in (*paths.values(), *([loo] if views else []))):
            torch.manual_seed(self.config.seed)
            counts = (self.config.num_draws, self.config.num_chains)
            arguments = self.run.guide.arguments(self.scenes[: len(scenes)].to(self.run.device))
            log_joint, q = log_joint_and_posterior(self.run, arguments)
            self.save_draws(guide_draws(log_joint, q, *counts), settings, scenes)
            with SceneBar(len(scenes), "draws, importance") as bar:
                show, refined = bar.batch(len(scenes)), self.effort.refined()
                show.expect(refined.evaluations())
                show.watch(log_joint)
                chains = annealed_from(log_joint, fit_and_cover(log_joint, q, refined), refined, in_words(show))
                show.finish()
            if views:
                data = loo_over_views(score(log_joint, chains.z)[1], chains.log_weights)
                images, viewpoints = arguments
                data = data.merge(held_out_views(self.run.guide, images, viewpoints))
                save(loo, data, settings)
            self.save_draws(importance_draws(chains.z, chains.log_weights, *counts), settings, scenes)
        khats = {source: khats_of(read(path)) for source, path in paths.items()}
        khat_figure(self.folder.figure("khat.png"), khats, self.title)
        lines = [f"draws, {source}: {khat} scenes" for source, khat in khats.items()]
        if views:
            data = read(loo)
            khat_figure(self.folder.figure("loo.png"), {"views left out": khats_of(data)}, self.title)
            lines.append(loo_table(data))
        return "\n".join(lines)

    def checks(self) -> str:
        """Make posterior-predictive checks of both kinds of draws."""
        sources = {source: data["posterior"] for source, data in self.both("posterior").items()}
        path = self.folder.numbers("predictive_checks")
        index = torch.from_numpy(sources["guide"]["scene"].values.copy())
        of = [data.attrs["settings"] for data in sources.values()]
        settings = self.settings(draws=of, scenes=self.scenes.part(index).digests)
        scenes = self.scenes[index].to(self.run.device)
        if not is_of(path, settings):
            torch.manual_seed(self.config.seed)
            parts = []
            for source, data in sources.items():
                draws = Draws(torch.from_numpy(data["z"].values).to(self.run.device), source)
                parts.append(predictive_checks(self.run.model, draws, *self.run.guide.arguments(scenes)))
            save(path, join_sources(parts), settings)
        checks = read(path)
        checks_figure(self.folder.figure("predictive_checks.png"), checks, scenes.image.cpu().numpy(), self.title)
        return checks_table(checks)

    def nuts(self) -> str:
        """Sample one scene by NUTS, and compare the marginals of the other draws with its."""
        groups = ("posterior", "sample_stats")
        both = self.both(*groups)
        khat = of_scenes(both["importance"]["sample_stats"]["khat"])
        scene = self.config.nuts_scene
        if scene is None:
            scene = int(khat["scene"][int(khat.fillna(float("inf")).values.argmin())])
        if scene not in khat["scene"].values:
            raise ArgumentError(f"nuts_scene: expected one of the {khat.size} scenes, from 0 on, got {scene}")
        path = self.posterior("nuts")
        names = ("num_draws", "num_chains", "fit_steps", "cover_steps", "warmup_steps")
        digests = self.scenes.part(slice(scene, scene + 1)).digests
        settings = self.settings(*names, scene=scene, scenes=digests)
        if not is_of(path, settings):
            torch.manual_seed(self.config.seed)
            arguments = self.run.guide.arguments(self.scenes[scene : scene + 1].to(self.run.device))
            log_joint, q = log_joint_and_posterior(self.run, arguments)
            nuts = NutsConfig(self.config.num_draws, self.config.num_chains, self.config.warmup_steps)
            with tqdm(total=nuts.total, unit="step", desc="nuts") as bar:
                full = "full" in self.effort.families_of(q.batch_shape[1])
                fit = fit_and_cover(log_joint, q, self.effort.refined()) if full else None
                draws = nuts_draws(log_joint, q, nuts, fit, lambda chain, step: bar.update())
            self.save_draws(draws, settings, range(scene, scene + 1))
        found = agreement({"nuts": self.load("nuts", *groups), **both})
        title = f"{self.title}, scene {scene + 1}"
        marginals_figure(self.folder.figure("marginals.png"), found.draws, found.distances, title)
        return "\n".join([title, str(found.rows), *found.notes])

    def calibration(self) -> str:
        """Make the simulation-based calibration of the guide, and of importance."""
        path = self.folder.numbers("calibration")
        names = ("simulated_scenes", "simulated_chains", "simulated_temperatures")
        views, total = self.scenes.num_views is not None, self.config.simulated_scenes
        cameras = self.scenes.part(slice(total)).cameras if views else {}
        settings = self.settings("num_draws", "fit_steps", "cover_steps", *names, scenes=cameras)
        if not is_of(path, settings):
            torch.manual_seed(self.config.seed)
            viewpoints = None
            if views:
                viewpoints = self.scenes[:total].to(self.run.device).viewpoint
                assert viewpoints is not None
                total = len(viewpoints)
            chains, temperatures = self.config.simulated_chains, self.config.simulated_temperatures
            config = dataclasses.replace(self.effort, ais_chains=chains, ais_temperatures=temperatures)
            with SceneBar(total, "calibration") as bar:
                data = calibrate(self.run, total, self.config.num_draws, config, viewpoints, progress=bar)
            save(path, data, settings)
        data = read(path)
        calibration_figure(
            self.folder.figure("calibration.png"), data, f"{self.title}, {data.sizes['scene']} simulated scenes"
        )
        return calibration_table(data)

    def save_draws(self, draws: Draws, settings: Settings, scenes: range) -> None:
        """Save all groups of draws for these scenes."""
        truth = self.scenes[scenes.start : scenes.stop].to(self.run.device)
        arguments = self.run.guide.arguments(truth)
        data = draws_to_inference_data(draws, self.run.model, self.run.guide, *arguments, truth=truth)
        more = {"run": self.title, "settings": as_text(settings)}
        groups = {
            name: group.assign_coords(scene=list(scenes)).assign_attrs(more) for name, group in groups_of(data).items()
        }
        path = self.posterior(draws.source)
        make_way(path, settings)
        save_inference_data(path, bundle(groups))

    def load(self, source: str, *groups: str) -> Groups:
        """Load some groups of the draws, if they are of this run and its scenes."""
        path = self.posterior(source)
        found = load_groups(path, *groups)
        check_identity(path, found[groups[0]], self.run.identity, self.scenes)
        if "scenes" not in recorded(found[groups[0]]):
            raise IdentityError(
                f"{path}: expected draws that say of which scenes they are, found those of an earlier version, which "
                "did not; draw them again (`compvae diagnose --stages draws`)"
            )
        return found

    def both(self, *groups: str) -> dict[str, Groups]:
        """Load the draws from the guide and by importance, if they are of one call."""
        found = {source: self.load(source, *groups) for source in ("guide", "importance")}
        if len({data[groups[0]].attrs["settings"] for data in found.values()}) > 1:
            raise IdentityError(
                f"{self.posterior('importance')}: expected draws with the settings of {self.posterior('guide')}, found "
                "others; draw them again (`compvae diagnose --stages draws`)"
            )
        return found

    def posterior(self, source: str) -> Path:
        """The file of the draws of a source."""
        return self.folder.numbers(f"posterior_{source}")

    def settings(self, *names: str, **more: Any) -> Settings:
        """The settings that numbers depend on."""
        content = {name: getattr(self.config, name) for name in (*names, "seed")}
        return {"version": DIAGNOSES, **self.run.identity, **content, **more}
