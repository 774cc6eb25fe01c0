"""Label Studio's JSON tasks, the project's labelling interface, and the images. Called by convert.py."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from gdseg.data.label_studio_rle import encode_brush
from gdseg.data.label_weights import said
from gdseg.data.rle import annotation_mask
from gdseg.files import write_atomic, write_json
from gdseg.layouts.job import Job, names_of, size_of, sureness
from gdseg.structures import ClassInfo


def write_label_studio(job: Job) -> None:
    """label_studio_PART.json, PART/ with the images, labels.txt and label_config.xml.

    One polygon stays a polygon, all else becomes a brush mask. Objects with scores are predictions, which a
    person accepts or edits, others annotations. Images are local files below the folder. A weight and a crowd
    are words of the region's note. Raises DataError for classes that names do not tell apart.
    """
    names = names_of(job.table, "Label Studio")
    scored = any(said(a, "score") is not None for record in job.records for a in record.annotations or ())
    tasks = []
    for number, (record, name) in enumerate(job.each(job.part), 1):
        found = job.objects(record)
        results = [_result(a, names[a["label"]], i, size_of(record)) for i, a in enumerate(found, 1)]
        path = quote(f"{job.part}/{name}", errors="surrogateescape")  # a name's own bytes, UTF-8 or not
        address = f"/data/local-files/?d={path}"
        made: dict[str, Any] = {"result": results}
        if scored:
            scores = [result["score"] for result in results if "score" in result]
            made |= {"model_version": "gdseg", "score": float(np.mean(scores)) if scores else 0.0}
        key = "predictions" if scored else "annotations"
        tasks.append({"id": number, key: [made], "data": {"image": address}})
    write_json(job.out / f"label_studio_{job.part}.json", tasks, indent=None)
    write_atomic(job.out / "labels.txt", "".join(f"{name}\n" for name in names))
    write_atomic(job.out / "label_config.xml", _interface(job.table))


def _result(found: dict[str, Any], name: str, number: int, size: tuple[int, int]) -> dict[str, Any]:
    """One region."""
    height, width = size
    shape, value = found["segmentation"], dict[str, Any]()
    if isinstance(shape, list) and len(shape) == 1:
        kind = "polygon"
        value["points"] = (np.array(shape[0]).reshape(-1, 2) * 100 / (width, height)).tolist()
    else:
        kind = "brush"
        value |= {"format": "rle", "rle": encode_brush(annotation_mask(found, height, width))}
    sure = sureness(found)
    note = [f"weight={sure['weight']:.6g}"] if "weight" in sure else []
    note += ["iscrowd"] if found["iscrowd"] else []
    return {
        "id": f"gdseg{number}",
        "type": f"{kind}labels",
        "from_name": kind,
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {**value, f"{kind}labels": [name]},
        **({"score": sure["score"]} if "score" in sure else {}),
        **({"meta": {"text": [" ".join(note)]}} if note else {}),
    }


def _interface(table: list[ClassInfo]) -> str:
    """The labelling interface (tab "Code"), with the names that the results refer to."""
    lines = ["<View>", '  <Image name="image" value="$image" zoom="true"/>']
    for kind, tag in (("brush", "BrushLabels"), ("polygon", "PolygonLabels")):
        lines.append(f'  <{tag} name="{kind}" toName="image">')
        for info in table:
            colour = "" if info.colour is None else ' background="#{:02x}{:02x}{:02x}"'.format(*info.colour)
            lines.append(f"    <Label value={quoteattr(info.name)}{colour}/>")
        lines.append(f"  </{tag}>")
    return "\n".join([*lines, "</View>", ""])
