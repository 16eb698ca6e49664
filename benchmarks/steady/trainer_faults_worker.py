"""One contender of trainer_faults.py: imports once, then runs each job in a forked process of its own.

    python trainer_faults_worker.py luthier|trainer FAULTY_IO.so     jobs as JSON lines on stdin, answers on stdout

A job is {"runs": [run, …]}, all started together; a run is {"folder", "log", "resume", "settings", "fault"}. The answer
has for each run its exit code as a shell would see it, seconds, and what its process noted (operations counted, …).
The forked process is what a user's process would be: the command `luthier train`, or a script that makes a `Trainer`,
trains and saves the model. Faults come from outside: from the rows, the disk, the signals, or a wrapped model call.
"""

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

RUN_LIMIT = 600.0  # seconds until a run counts as hung
Run = dict[str, Any]


class Faults:
    """What goes wrong in this process, and what it leaves behind about it."""

    def __init__(self, run: Run, library: str) -> None:
        self.fault, self.folder = run.get("fault") or {}, Path(run["folder"])
        self.notes: dict[str, Any] = {}
        self.note_file = Path(run["log"] + ".json")
        self.library = ctypes.CDLL(library) if library else None
        self.step, self.micro, self.due, self.hit = 1, 0, False, set[int]()

    def note(self, **values: Any) -> None:
        """Keep something for the answer, even if this process dies next."""
        self.notes.update(values)
        self.note_file.write_text(json.dumps(self.notes))

    def poison(self, loss: Any) -> Any:
        """Called with the training loss of every micro-batch; returns the loss that the trainer shall see."""
        self.micro += 1
        self.due = self.micro == 1 and self.step not in self.hit and self._wanted()
        if self.due:
            self.hit.add(self.step)
        if self.due and self.fault["kind"] == "nan":
            return loss * float("nan")
        if self.due and self.fault["kind"] == "signal":
            self.note(signal_at=time.time())
            os.kill(os.getpid(), getattr(signal, self.fault["signal"]))
        return loss

    def _wanted(self) -> bool:
        steps, first = self.fault.get("steps", []), self.fault.get("from_step", float("inf"))
        return self.step in steps or self.step >= first

    def spoils_gradient(self) -> bool:
        """Whether one element of this micro-batch's gradient becomes Inf."""
        return self.fault.get("kind") == "inf gradient" and self.due

    def begins(self, step: int) -> None:
        """Called when the next micro-batch is the first one of `step`."""
        self.step, self.micro = step, 0

    def step_done(self, step: int) -> None:
        """Called after step `step`, before anything of it is saved."""
        fault = self.fault
        if fault.get("at_step") != step:
            return
        if fault["kind"] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault["kind"] == "io" and self.library:
            self.library.fault_arm(b"checkpoint", ctypes.c_long(fault["operation"]), fault["mode"])
        if fault["kind"] == "fill":
            _fill(Path(fault["filler"]))
        if fault["kind"] == "hold":
            Path(fault["reached"]).touch()
            _wait_for(Path(fault["until"]))

    def saved(self) -> None:
        """Called after a save."""
        counted = self.library.fault_count() if self.library and self.fault.get("kind") == "io" else 0
        if counted and "operations" not in self.notes:
            self.note(operations=counted, syncs=self.library.fault_syncs())


def _fill(file: Path) -> None:
    """Fill the file system that `file` is on to its last byte."""
    with file.open("wb", buffering=0) as handle:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    handle.write(b"\0" * size)
            except OSError:
                continue


def _wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.05)


def luthier_runner() -> Callable[[Run, Faults], None]:
    """`luthier train RECIPE` or `luthier train --resume FOLDER`, as the command does it."""
    import torch

    from luthier import cli
    from luthier.core.events import EventLog
    from luthier.models.decoder import Decoder
    from luthier.models.lora import Adapter
    from luthier.recipe import Recipe, dump_recipe
    from luthier.stages import run as stage  # noqa: F401  so that forked processes have it

    torch.set_num_threads(1)

    def go(run: Run, faults: Faults) -> None:
        logprobs, add = Decoder.logprobs, EventLog.add

        def poisoned(self: Decoder, *args: Any, **kwargs: Any) -> Any:
            value = logprobs(self, *args, **kwargs)
            if value.requires_grad:
                value = faults.poison(value)
                if faults.spoils_gradient():
                    (adapter,) = (part for part in (*args, *kwargs.values()) if isinstance(part, Adapter))
                    value.register_hook(lambda _: adapter.grad.view(-1)[:1].fill_(float("inf")) and None)
            return value

        def observed(self: EventLog, event: str, **fields: Any) -> Any:
            entry = add(self, event, **fields)
            if event in ("step", "skipped"):
                faults.begins(fields["step"] + 1)
            if event == "step":
                faults.step_done(fields["step"])
            if event == "checkpoint" and fields["step"]:
                faults.saved()
            return entry

        Decoder.logprobs, EventLog.add = poisoned, observed  # this process has one run and then ends
        if run.get("resume"):
            arguments = ["--resume", run["folder"], *run.get("accept", [])]
        else:
            values = {key: value for key, value in run["settings"].items() if key in Recipe.model_fields}
            recipe = Path(run["log"] + ".yaml")
            recipe.write_text(dump_recipe(Recipe(**values, output_dir=run["folder"])))
            arguments = [str(recipe)]
        sys.argv = ["luthier", "train", *arguments]
        cli.main()

    return go


def trainer_runner() -> Callable[[Run, Faults], None]:
    """A script as the documentation of `Trainer` has it: PEFT's LoRA, train, save_model."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    torch.set_num_threads(1)

    def pad(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
        width = max(len(row["ids"]) for row in rows)
        filled = {"input_ids": 0, "labels": -100, "attention_mask": 0}
        parts = [
            {
                "input_ids": row["ids"],
                "labels": [i if on else -100 for i, on in zip(row["ids"], row["mask"], strict=True)],
                "attention_mask": [1] * len(row["ids"]),
            }
            for row in rows
        ]
        return {
            name: torch.tensor([part[name] + [value] * (width - len(part[name])) for part in parts])
            for name, value in filled.items()
        }

    def base(settings: Run) -> Any:
        return AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32)

    def judge(settings: Run) -> dict[str, float]:
        """Token-weighted held-out loss of a saved adapter."""
        model = PeftModel.from_pretrained(base(settings), settings["adapter"]).eval()
        total, tokens = 0.0, 0
        for row in json.loads(Path(settings["val"]).read_text()):
            batch = pad([row])
            with torch.no_grad():
                count = int((batch["labels"][:, 1:] != -100).sum())
                total += model(**batch).loss.item() * count
            tokens += count
        return {"loss": total / tokens}

    def go(run: Run, faults: Faults) -> None:
        settings = run["settings"]
        if "adapter" in settings:
            faults.note(**judge(settings))
            return

        class Observed(Trainer):
            def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
                loss = super().compute_loss(model, inputs, *args, **kwargs)
                if not (model.training and torch.is_grad_enabled()):
                    return loss
                loss = faults.poison(loss)
                return loss

        class Watch(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
                faults.begins(state.global_step + 1)

            def on_step_end(self, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
                faults.step_done(state.global_step)

            def on_save(self, *args: Any, **kwargs: Any) -> None:
                faults.saved()

        torch.manual_seed(settings["seed"])
        config = LoraConfig(
            r=settings["rank"], lora_alpha=settings["alpha"], lora_dropout=settings["dropout"],
            target_modules="all-linear", task_type="CAUSAL_LM",
        )  # fmt: skip
        model = get_peft_model(base(settings), config)

        def spoil(gradient: torch.Tensor) -> torch.Tensor:
            if faults.spoils_gradient():
                gradient = gradient.clone()
                gradient.view(-1)[0] = float("inf")
            return gradient

        next(p for name, p in model.named_parameters() if "lora_B" in name).register_hook(spoil)
        arguments = TrainingArguments(
            output_dir=run["folder"],
            max_steps=settings["steps"],
            per_device_train_batch_size=settings["rows_a_micro_batch"],
            gradient_accumulation_steps=settings["micro_batches"],
            learning_rate=settings["rate"],
            lr_scheduler_type="cosine",
            warmup_steps=max(1, settings["steps"] // 20),
            save_steps=settings["save_steps"],
            save_total_limit=settings["keep"],
            logging_steps=5,
            seed=settings["seed"],
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            **settings["options"],
        )
        trainer = Observed(
            model=model,
            args=arguments,
            train_dataset=json.loads(Path(settings["train"]).read_text()),
            eval_dataset=json.loads(Path(settings["val"]).read_text()),
            data_collator=pad,
            callbacks=[Watch()],
        )
        result = trainer.train(resume_from_checkpoint=bool(run.get("resume")) or None)
        trainer.save_model()
        faults.note(train_loss=result.training_loss, log=trainer.state.log_history, step=trainer.state.global_step)
        if settings.get("evaluate"):
            faults.note(eval_loss=trainer.evaluate()["eval_loss"])

    return go


def start(go: Callable[[Run, Faults], None], run: Run, library: str) -> int:
    """Fork; the child runs and leaves with the code that its process would have left with."""
    pid = os.fork()
    if pid:
        return pid
    log = os.open(run["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    code = 1
    try:
        if run.get("wait_for"):
            _wait_for(Path(run["wait_for"]))
        go(run, Faults(run, library))
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except KeyboardInterrupt:
        code = 130
    except BaseException:  # as the interpreter would: show it, leave with 1
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if run.get("when_done"):
            Path(run["when_done"]).touch()
        os._exit(code)


def finish(pids: list[int], runs: list[Run]) -> list[dict[str, Any]]:
    """Wait for all; a filler on the disk goes away `free_after` seconds after it came, a hung run is killed."""
    began, left = time.monotonic(), dict(zip(pids, runs, strict=True))
    answers: dict[int, dict[str, Any]] = {}
    full_since: dict[str, float] = {}
    while left:
        time.sleep(0.02)
        now = time.monotonic()
        for pid, run in list(left.items()):
            filler = (run.get("fault") or {}).get("filler")
            full = bool(filler) and Path(filler).exists()
            if full and now - full_since.setdefault(filler, now) > run["fault"]["free_after"]:
                Path(filler).unlink()
            hung = now - began > RUN_LIMIT
            if hung:
                os.kill(pid, signal.SIGKILL)
            done, status = os.waitpid(pid, 0 if hung else os.WNOHANG)
            if done:
                note_file = Path(run["log"] + ".json")
                answers[pid] = {
                    "exit": "hung" if hung else os.waitstatus_to_exitcode(status),
                    "ended_at": time.time(),
                    "seconds": now - began,
                    "notes": json.loads(note_file.read_text()) if note_file.exists() else {},
                }
                del left[pid]
    return [answers[pid] for pid in pids]


def main() -> None:
    """Answer jobs until stdin ends."""
    contender, library = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    go = {"luthier": luthier_runner, "trainer": trainer_runner}[contender]()
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        runs = json.loads(line)["runs"]
        pids = [start(go, run, library) for run in runs]
        print(json.dumps(finish(pids, runs)), file=answers, flush=True)


if __name__ == "__main__":
    main()
