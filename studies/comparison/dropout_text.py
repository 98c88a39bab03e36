"""A cell's dropout layers and their dose, as a comparison shows them."""

from studies.comparison.compare import CellResult

DROPOUT_COLUMNS = ("cell", "dose", "kind", "rate", "place", "position", "layers")

DOSE_NOTE = (
    "As the networks have them. Dose: how many layers drop, and the expected share of channels (of voxels, for "
    "element) that is kept on the way out of each place to the next convolution; the encoder's is the way down. Places "
    "differ in dose, and a difference between them is one of dose as well."
)


def dropout_rows(result: CellResult) -> list[tuple[str, ...]]:
    """DROPOUT_COLUMNS of the dropout layers that the cell's network has, those alike in one row."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for path, kind, rate, place, *position in result.cell.dropout:
        groups.setdefault((str(kind), f"{rate:g}", str(place), *(position or [""])), []).append(str(path))
    rows = [(*key, ", ".join(paths)) for key, paths in groups.items()] or [("none", *["–"] * 4)]
    heads = [(result.cell.name, dose(result)), *[("", "")] * (len(rows) - 1)]
    return [(*head, *row) for head, row in zip(heads, rows, strict=True)]


def dose(result: CellResult) -> str:
    """`6 layers; encoder 0.8, skip 0.8`: paths that lose nothing are left out."""
    found = result.cell.dose
    if found is None:
        return "–"
    kept = ", ".join(f"{path} {share:g}" for path, share in found["kept"].items() if share < 1)
    return f"{found['layers']} layers; {kept}" if kept else "keeps all"
