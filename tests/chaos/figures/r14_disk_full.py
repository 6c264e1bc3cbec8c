"""R14: the disk fills up at every place where something is written, on real small file systems.

As root each case has a tmpfs of a few megabytes, and what is written last gets exactly the room of what comes before
it. Elsewhere a limit on the size of files stands in; then cases that differ only in the file that fails are alike.
"""

import subprocess
from contextlib import contextmanager
from pathlib import Path

from chaos.figure import figure
from chaos.real import Forge, Job, dataset_file, prepare, train_request

from celora.errors import CeloraError
from celora.storage.artifacts import Artifacts
from celora.tuning.protocol import EvaluateRequest, HubAccess, PrepareRequest
from celora.tuning.recipe import Recipe, ResolvedRecipe

STEPS = 8
PAGE = 4096
CHECKPOINT = (
    "adapter_config.json", "adapter_model.safetensors", "best.safetensors", "optimizer.pt", "scheduler.pt",
    "rng_state.pth", "trainer_state.json", "progress.json", "manifest.json",
)  # fmt: skip
"""The files of a checkpoint in the order in which they are written."""
PREPARED = (
    "special_tokens_map.json",
    "chat_template.jinja",
    "tokenizer_config.json",
    "tokenizer.json",
    "prepared.json",
)
"""What prepare writes after the arrays and before the receipt."""
HALF_WRITTEN = (".tmp-*", "*.partial", ".staged*", "*.sources")


@figure(
    "R14",
    "A full disk says where, and spares what is there",
    "at each of 16 places: a clear error that names the path, nothing half-written left, the older checkpoint goes on",
)
def disk_full(bench):
    with Forge(bench.folder / "forge") as forge:
        places = Places(bench, forge)
        cases = {f"checkpoint: {name}": (places.checkpoint, name) for name in CHECKPOINT[1:4] + CHECKPOINT[-2:]} | {
            "checkpoint whose size is known": (places.foreseen,),
            "checkpoint of a drain": (places.drain,),
            "finished adapter": (places.adapter,),
            "log": (places.log,),
            "spool of rows": (places.prepared, 0.4),
            "prepared arrays": (places.prepared, 1.3),
            "receipt": (places.receipt,),
            "evaluation rows": (places.evaluation,),
            "quantized copy": (places.quantized,),
            "upload": (places.upload,),
            "download": (places.download,),
        }
        missed = []
        for label, (case, *arguments) in cases.items():
            faults = case(*arguments)
            missed += [f"{label}: {fault}" for fault in faults]
            bench.say(f"{label}: {'; '.join(faults) or places.said}")
    failed = {miss.split(": ")[0] + miss.split(": ")[1] for miss in missed}
    return {"places": len(cases), "right": len(cases) - len(failed), "small_disks": places.real}, missed


class Places:
    """The cases; each returns its faults."""

    def __init__(self, bench, forge):
        self.folder, self.forge, self.count, self.said, self.real = bench.folder, forge, 0, "", True
        self.data = prepare(forge, bench.folder)
        self.recipe = {"max_steps": STEPS, "save_steps": 1, "eval_steps": 2, "early_stopping_patience": 50}
        calm = Job(bench.folder / "calm", train_request(self.data, bench.folder, **self.recipe))
        self.trained = forge.run(calm.next()).of("done")[0]["result"]
        self.sizes = sizes_of(calm.newest()) | sizes_of(bench.folder / "prepared")
        self.adapter_dir = calm.folder / "attempt-1" / "adapter"

    def checkpoint(self, name):
        """The file of a checkpoint that no longer fits; three misses in a row end the run.

        A second attempt meets it: a process that has saved before knows the size and does not even begin.
        """
        return self.training(self.before(CHECKPOINT, name), steps=3, newest=2, drained_at=2)

    def foreseen(self):
        """The size is known from the last save."""
        return self.training(0, steps=5, newest=2)

    def drain(self):
        """A drain has nothing but its checkpoint: the first miss ends it."""
        return self.training(0, steps=3, newest=2, stop=True)

    def adapter(self):
        """All steps done, and no room for the result."""
        return self.training(0, steps=STEPS, newest=6, at=STEPS, save_steps=3)

    def training(self, leave, *, steps, newest, at=3, stop=False, drained_at=None, **recipe):
        with self.disk(4 * 2**20) as disk:
            job = Job(disk, train_request(self.data, disk, **self.recipe | recipe))
            if drained_at:
                self.forge.run(job.next(), at={"event": "progress", "step": drained_at, "stop": True})
            happens = {"event": "progress", "step": at, "stop": stop, **self.full(disk, leave)}
            answer = self.forge.run(job.next(), at=happens)
            faults = self.check(answer.error, disk) + leftovers(disk)
            done = len(answer.of("progress"))
            faults += [f"it ended after step {done}"] * (done != steps) + [f"exit code {answer.code}"] * (
                answer.code != 73
            )
            kept = job.newest()
            if kept is None or kept.name != f"step-{newest}":
                return [*faults, f"the newest checkpoint is {kept}"]
            (disk / "filler").unlink(missing_ok=True)
            again = self.forge.run(job.next())
            return faults + [f"going on ended with {again.code}: {again.error}"] * (again.code != 0)

    def log(self):
        """What cannot be logged is lost, and nothing else."""
        job = Job(self.folder / "logless", train_request(self.data, self.folder, **self.recipe))
        answer = self.forge.run(job.next(), log="/dev/full")
        self.said = "training goes on without its log"
        return [f"exit code {answer.code}: {answer.error}"] * (answer.code != 0)

    def prepared(self, share):
        """A disk of some share of the rows' own size: the spool alone does not fit, or the arrays beside it."""
        rows = dataset_file(self.folder / "many.jsonl", 4000, 30)
        with self.disk(max(4 * PAGE, int(share * rows.stat().st_size) // PAGE * PAGE)) as disk:
            out = disk / "prepared"
            order = {} if self.real else {"limit": int(share * rows.stat().st_size) // 4}
            at = {"event": "phase", **order}
            answer = self.forge.run(self.prepare_request(rows, out), at=at)
            return self.check(answer.error, disk) + leftovers(disk) + ["it was committed"] * out.exists()

    def receipt(self):
        """The last thing that prepare writes before its manifest."""
        with self.disk(4 * 2**20) as disk:
            out = disk / "prepared"
            request = self.prepare_request(self.folder / "rows.jsonl", out, eval_fraction=0.0)
            leave = sum(self.sizes.get(name, 0) for name in PREPARED)
            answer = self.forge.run(request, at={"event": "note", **self.full(disk, leave)})
            return self.check(answer.error, disk) + leftovers(disk) + ["it was committed"] * out.exists()

    def evaluation(self):
        """Rows and metrics."""
        with self.disk(2**20) as disk:
            request = EvaluateRequest(
                job="job", attempt=1, hub=HubAccess(offline=True), threads=1, adapter_dir=str(self.adapter_dir),
                recipe=ResolvedRecipe.model_validate(self.trained["resolved"]), metrics=[], max_rows=2,
                out_dir=str(disk / "evaluation"), **self.data,
            )  # fmt: skip
            answer = self.forge.run(request, at={"event": "phase", **self.full(disk, 0)})
            return (
                self.check(answer.error, disk) + leftovers(disk) + ["it was committed"] * (disk / "evaluation").exists()
            )

    def quantized(self):
        """The stored NF4 copy of a base."""
        with self.disk(2**20) as disk:
            data = self.data | {"cache_dir": str(disk / "cache")}
            request = train_request(
                data,
                self.folder / "unquantized",
                **self.recipe,
            )
            request = request.model_copy(update={"recipe": request.recipe.model_copy(update={"quantization": "nf4"})})
            answer = self.forge.run(request, at={"event": "phase", **self.full(disk, 0)})
            return self.check(answer.error, disk) + leftovers(disk)

    def upload(self):
        """A folder onto a full artifact root, over an older one that stays."""
        with self.disk(2**20) as disk:
            store = Artifacts(f"file://{disk}")
            store.put_folder(self.adapter_dir, store.uri("older"))
            (disk / "filler").write_bytes(bytes(2**20 - 2 * sum(sizes_of(self.adapter_dir).values()) + PAGE))
            faults = self.raised(lambda: store.put_folder(self.adapter_dir, store.uri("newer")), disk)
            faults += ["half of it is there"] * store.exists(store.uri("newer")) + leftovers(disk)
            return faults + ["the older one is gone"] * (not store.committed(store.uri("older")))

    def download(self):
        """A folder from an artifact root onto a full scratch disk."""
        store = Artifacts(f"file://{self.folder}/root")
        store.put_folder(self.adapter_dir, store.uri("adapter"))
        with self.disk(4 * PAGE) as disk:
            return self.raised(lambda: store.get_folder(store.uri("adapter"), disk / "adapter"), disk)

    def prepare_request(self, rows, out, **fields):
        return PrepareRequest(
            job="job", attempt=1, cache_dir=str(self.folder / "cache"), base_model=self.data["base"].source,
            dataset=str(rows), recipe=Recipe(max_length=96), seed=1, out_dir=str(out), **fields,
        )  # fmt: skip

    def raised(self, action, disk):
        """The same check for what is raised here."""
        try:
            action()
        except CeloraError as error:
            return self.check({"code": error.code, "message": error.message}, disk)
        return ["nothing was raised"]

    def check(self, error, disk):
        """Whether an error is the right one, names the place and says what to do."""
        if error is None:
            return ["it did not fail"]
        self.said = error["message"]
        right = ("disk_full",) if self.real else ("disk_full", "data_limit")
        faults = [f"it failed as {error['code']}: {error['message']}"] * (error["code"] not in right)
        return faults + [f"the path is not named: {error['message']}"] * (str(disk) not in error["message"])

    def before(self, names, wanted):
        """The room that the files before one take, in whole pages."""
        return sum(self.sizes[name] for name in names[: names.index(wanted)])

    def full(self, disk, leave):
        """What makes a disk full but for some bytes."""
        return {"fill": str(disk), "leave": leave} if self.real else {"limit": max(PAGE, leave)}

    @contextmanager
    def disk(self, size):
        """A small file system, where we may mount one."""
        self.count += 1
        folder = self.folder / f"disk-{self.count}"
        folder.mkdir()
        command = ["/usr/bin/mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(folder)]
        self.real = self.real and subprocess.run(command, capture_output=True, check=False).returncode == 0
        try:
            yield folder
        finally:
            if self.real:
                subprocess.run(["/usr/bin/umount", "-l", str(folder)], check=True)


def sizes_of(folder):
    """Bytes that each file takes on a disk of pages, by name."""
    return {path.name: -(-path.stat().st_size // PAGE) * PAGE for path in Path(folder).rglob("*") if path.is_file()}


def leftovers(disk):
    """What is there and half-written."""
    return [f"left behind: {path.name}" for pattern in HALF_WRITTEN for path in disk.rglob(pattern)]
