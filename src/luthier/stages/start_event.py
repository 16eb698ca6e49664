"""The first event of a run: all that is known before the first step."""

from typing import Any

from luthier.core.files import read_json
from luthier.stages.manifest import MANIFEST_FILE
from luthier.stages.session import Session


def start_fields(session: Session) -> dict[str, Any]:
    """The fields of the event `start`."""
    prepared, adapter = session.prepared, session.adapter
    manifest = read_json(session.run_dir / MANIFEST_FILE)
    accounts, settings = prepared.accounts, prepared.settings
    return {
        "recipe": session.recipe.model_dump(),
        "model": manifest["model"],
        "adapter": {
            "base": "nf4" if session.recipe.nf4 else prepared.place.dtype_name,
            "r": adapter.rank,
            "alpha": adapter.alpha,
            "parameters": adapter.num_parameters,
        },
        "data": {
            "rows_in": accounts.rows_in,
            "train_rows": len(prepared.train),
            "val_rows": len(prepared.val),
            "train_tokens": prepared.train_tokens,
            "label_tokens": prepared.label_tokens,
            "val_tokens": sum(len(row.ids) for row in prepared.val),
            "val_label_tokens": sum(int(row.mask.sum()) for row in prepared.val),
            "dropped": dict(accounts.dropped),
            "changed": dict(accounts.changed),
            "sources": accounts.sources,
            "notes": accounts.notes,
            "hash": prepared.data_hash,
        },
        "settings": {
            "batch_tokens": settings.batch_tokens,
            "micro_batch_tokens": settings.micro_batch_tokens,
            "learning_rate": settings.learning_rate,
            "eval_steps": settings.eval_steps,
            "save_steps": settings.save_steps,
            "notes": settings.notes,
        },
        "machine": manifest["machine"],
        "versions": manifest["versions"],
        "device": str(prepared.place.device),
        "dtype": prepared.place.dtype_name,
        "place": prepared.place.why,
        "total_steps": settings.total_steps,
    }
