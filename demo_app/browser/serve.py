"""Serve the reader in the browser, with the model and onnxruntime-web, on a port that is free."""

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGES = HERE.parents[1] / "work" / "browser"


def fetch_runtime() -> None:
    """Take the files that reader.js names out of the npm package, unless they are there.

    Raises:
        OSError: If the package can't be had; the message says what to do.
    """
    script = (HERE / "reader.js").read_text(encoding="utf-8")
    version = re.search(r"onnxruntime-web@[\d.]+", script)[0]
    names = re.findall(r'"(ort[\w.-]+)"', script)
    folder = PACKAGES / version / "dist"
    if all((folder / name).exists() for name in names):
        return
    if not (npm := shutil.which("npm")):
        raise OSError("npm is not here; install it to fetch onnxruntime-web.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PACKAGES) as temporary:
        command = [npm, "pack", version, "--pack-destination", temporary]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"npm can't fetch {version}; check the connection.\n{done.stderr}")
        (archive,) = Path(temporary).iterdir()
        with tarfile.open(archive) as package:
            for name in names:
                whole = Path(temporary, name)  # so that a half-written file is never served
                whole.write_bytes(package.extractfile(f"package/dist/{name}").read())
                whole.replace(folder / name)


class Handler(SimpleHTTPRequestHandler):
    """Serves demo_app, and the npm package beside it."""

    # Windows may have another type for it.
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".js": "text/javascript"}

    def translate_path(self, path: str) -> str:
        """Find a file, in the folder that it lies in."""
        self.directory = str(PACKAGES if path.startswith("/onnxruntime-web@") else HERE.parent)
        return super().translate_path(path)


if __name__ == "__main__":
    try:
        fetch_runtime()
        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            print(f"Open http://127.0.0.1:{server.server_port}/browser/ and stop with Ctrl+C.", flush=True)
            server.serve_forever()
    except OSError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print()
