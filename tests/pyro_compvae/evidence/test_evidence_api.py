"""The interface of `pyro_compvae.evidence`: short signatures, and all types of their arguments in one place."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path

import pytest

from pyro_compvae import evidence
from pyro_compvae.evidence import AnnealingConfig, FitConfig, FlowConfig, RefinedConfig

MODULES = sorted(Path(evidence.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_function_takes_more_than_seven_arguments(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            spec = node.args
            names = [each.arg for each in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs) if each.arg != "self"]
            assert len(names) + (spec.vararg is not None) <= 7, node.name


@pytest.mark.parametrize("config", [AnnealingConfig, FitConfig, FlowConfig, RefinedConfig])
def test_every_option_says_what_it_is(config: type) -> None:
    source = next(text for path in MODULES if f"class {config.__name__}" in (text := path.read_text(encoding="utf-8")))
    (node,) = (
        each for each in ast.walk(ast.parse(source)) if isinstance(each, ast.ClassDef) and each.name == config.__name__
    )
    explained = [
        before.target.id
        for before, after in zip(node.body, node.body[1:], strict=False)
        if isinstance(before, ast.AnnAssign)
        and isinstance(before.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    ]
    assert explained == [each.name for each in fields(config)]


def test_everything_exported_is_there() -> None:
    assert sorted(evidence.__all__) == sorted(set(evidence.__all__))
    assert all(hasattr(evidence, name) for name in evidence.__all__)
