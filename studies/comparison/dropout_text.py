"""A cell's dropout layers and their dose, as text."""

from studies.comparison.compare import CellResult

DROPOUT_COLUMNS = ("cell", "dose", "kind", "rate", "place", "position", "layers")

DOSE_NOTE = (
    "As the networks have them. Dose: the number of layers that drop, and the expected share of channels (of voxels, "
    "for element) that is kept between each place and the next convolution; for the encoder on the way down. Places "
    "differ in dose, so a difference between them is also one of dose."
)


def dropout_rows(result: CellResult) -> list[tuple[str, ...]]:
    """Return rows of DROPOUT_COLUMNS for the network's dropout layers; equal layers share a row."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for path, kind, rate, place, *position in result.cell.dropout:
        groups.setdefault((str(kind), f"{rate:g}", str(place), *(position or [""])), []).append(str(path))
    rows = [(*key, ", ".join(paths)) for key, paths in groups.items()] or [("none", *["–"] * 4)]
    heads = [(result.cell.name, dose(result)), *[("", "")] * (len(rows) - 1)]
    return [(*head, *row) for head, row in zip(heads, rows, strict=True)]


def dose(result: CellResult) -> str:
    """Return `6 layers; encoder 0.8, skip 0.8`, without the paths that keep everything."""
    found = result.cell.dose
    if found is None:
        return "–"
    kept = ", ".join(f"{path} {share:g}" for path, share in found["kept"].items() if share < 1)
    return f"{found['layers']} layers; {kept}" if kept else "keeps all"
