"""Whether this tree trains and evaluates as another one does, number by number: for changes that must change none.

git worktree add ../before COMMIT
python -m tests.compare_trees ../before [--steps 30] [--only 'demo_*'] [--datasets FOLDER]

Each shipped config is trained for some steps in both trees, in float32 with two threads, and the other tree's
checkpoint is then evaluated by both. Compared are loss and gradient norm of each step bit for bit, metrics.json
without times and paths, cases.csv, and the report's tables. Configs whose data set is not in FOLDER are named and
left out. Exits with 1 where anything differs.
"""

import argparse
import fnmatch
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
GENERATED = {"datasets/phantoms": "phantoms", "datasets/moving_shapes": "moving_shapes"}
SET = (
    "train.precision=float32",
    "threads=2",
    "train.log_every_steps=1",
    "evaluate.cases=4",
    "sweep=null",
    "init=null",
    "optim.warmup_steps=2",
)
NOT_COMPARED = re.compile(r"seconds|path|time|data_root|version|members")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout of the commit to compare with")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="of a config's path below configs/")
    parser.add_argument("--datasets", type=Path, default=ROOT.parent / "shared" / "datasets")
    arguments = parser.parse_args()
    trees = {"before": arguments.before.resolve(), "after": ROOT}
    differing = 0
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted((ROOT / "configs").rglob("*.yaml")):
            name = str(path.relative_to(ROOT / "configs"))
            if not fnmatch.fnmatch(name, arguments.only):
                continue
            root = data_root(path, trees["before"], arguments.datasets, Path(folder))
            if root is None:
                print(f"{name}: left out, its data set is not in {arguments.datasets}")
                continue
            found = compare(trees, name, root, arguments.steps, Path(folder) / name)
            differing += len(found)
            print(
                f"{name}: " + ("; ".join(found) or f"the same, {arguments.steps} steps and an evaluation"), flush=True
            )
    return 1 if differing else 0


def data_root(path: Path, before: Path, datasets: Path, folder: Path) -> Path | None:
    """Where the config's data lie; generated ones are written by the tree before."""
    named: str | None = None
    while named is None:  # a config's base may name it
        tree = yaml.safe_load(path.read_text())
        named = tree.get("data", {}).get("root")
        path = path.parent / tree.get("base", "")
    if named in GENERATED:
        root = folder / named
        if not root.exists():
            package = "data.synthetic" if (before / "data" / "synthetic").exists() else "data"
            run(before, "-m", f"{package}.{GENERATED[named]}", str(root))
        return root
    root = datasets / Path(named).name
    return root if root.exists() else None


def compare(trees: dict[str, Path], name: str, root: Path, steps: int, folder: Path) -> list[str]:
    """Return what differs, in words."""
    found = []
    losses = {}
    own = [
        *SET,
        f"data.root={root}",
        f"train.steps={steps}",
        "train.epochs=null",
        f"checkpoint.every_steps={steps}",
    ]
    for tree, path in trees.items():
        settings = [*own, f"train.validate_every_steps={steps}", "name=run", f"run.dir={folder / tree}"]
        run(path, "train.py", "--config", f"configs/{name}", *settings)
        lines = [json.loads(line) for line in (folder / tree / "run" / "metrics.jsonl").read_text().splitlines()]
        losses[tree] = [(r["step"], r["loss"], r.get("grad_norm")) for r in lines if r["split"] == "train"]
    assert len(losses["before"]) == steps, f"{name}: {len(losses['before'])} lines of {steps} steps"
    for one, other in zip(losses["before"], losses["after"], strict=True):
        if one != other:
            found.append(f"step {one[0]}: loss and gradient norm {one[1:]} before, {other[1:]} after")
            break
    results = {}
    for tree, path in trees.items():
        output = folder / f"{tree}_evaluated"
        given = ("--run", str(folder / "before" / "run"), "--checkpoint", "last", "--output", str(output))
        run(path, "evaluate.py", *given, may_fail=True)
        results[tree] = {
            "metrics.json": plain(json.loads((output / "metrics.json").read_text())),
            "cases.csv": (output / "cases.csv").read_text(),
            "the report's tables": re.findall(r"<table.*?</table>", (output / "report.html").read_text(), re.DOTALL),
        }
    return found + [f"{what} differs" for what, value in results["before"].items() if value != results["after"][what]]


def plain(tree: Any) -> Any:
    """Return metrics.json without what differs between two runs of one tree."""
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items() if not NOT_COMPARED.search(key)}
    return [plain(value) for value in tree] if isinstance(tree, list) else tree


def run(tree: Path, *command: str, may_fail: bool = False) -> None:
    """Run Python in a tree; raise with what it printed where it fails (1, a bad case, may be allowed)."""
    done = subprocess.run([sys.executable, *command], cwd=tree, capture_output=True, text=True)
    if done.returncode not in ((0, 1) if may_fail else (0,)):
        raise RuntimeError(f"{tree}: {' '.join(command)} exited with {done.returncode}:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
