"""Checks the JSON Schema of proxy.toml with Taplo: its linter, and its language server by complete.mjs."""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

bearerd, taplo, node_directory = sys.argv[1:]

# A file, and a part of what Taplo says about it; None if it accepts the file.
CASES = [
    ('[proxy]\nlisten = "127.0.0.1:1"\n', None),
    ('[proxy]\nlisten = ["127.0.0.1:1", "unix:/run/p"]\nthreads = 4\n', None),
    ('[credential.a]\nhosts = "api.test"\nclient_secret = { env = "S" }\nmargin = "10%"\n', None),
    ('[credential.a]\nrefresh_on = [401, { status = 403, body = "x" }]\ndead = { status = 404, error = "e" }\n', None),
    ('[limits]\nwait = 5\nidle_timeout = "1m 30s"\nheader_bytes = "64KiB"\n', None),
    ('[proxy]\nlisen = "127.0.0.1:1"\n', "lisen"),
    ('[prxy]\n', "prxy"),
    ('[proxy]\nthreads = "two"\n', "threads"),
    ('[proxy]\nthreads = 0\n', "threads"),
    ('[proxy]\nunmatched = "drop"\n', "unmatched"),
    ('[proxy]\nshutdown_grace = "25"\n', "shutdown_grace"),
    ('[limits]\nheader_bytes = "64KB"\n', "header_bytes"),
    ('[credential.a]\nclient_secret = "written out"\n', "client_secret"),
    ('[credential.a]\nclient_secret = { env = "A", file = "b" }\n', "client_secret"),
    ('[credential.a]\nassertion = { headers = {} }\n', "headers"),
    ('[credential.Big]\nhosts = "a.test"\n', "Big"),
]


def lint(schema, path):
    command = [taplo, "lint", "--schema", schema.as_uri(), str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def uncommented(example):
    """Returns proxy.toml with every setting active: the keys of a credential in a section of their own."""
    credentials = "# --- Every key of a credential"
    before, after = example.split(credentials, 1)
    keys, rest = after.split("\n[store]\n", 1)
    setting = re.compile(r'^#\s+([a-z_]+\s*= .*|\[credential\..*\])$', re.M)
    keys = "\n".join(line[4:] for line in keys.splitlines() if line.startswith("#   "))
    before, rest = (setting.sub(r"\1", part) for part in (before, rest))
    return f"{before}\n[credential.every]\n{keys}\n[store]\n{rest}"


def main():
    failures = []
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory).resolve()
        schema = directory / "schema.json"
        schema.write_text(subprocess.run([bearerd, "schema"], capture_output=True, text=True, check=True).stdout)
        example = subprocess.run([bearerd, "schema", "--format", "toml"], capture_output=True, text=True, check=True).stdout
        cases = [*CASES, (example, None), (uncommented(example), None)]
        path = directory / "case.toml"
        for text, says in cases:
            path.write_text(text)
            result = lint(schema, path)
            said = result.stdout + result.stderr
            if (says is None) != (result.returncode == 0) or (says and says not in said):
                failures.append(f"Taplo should {'refuse' if says else 'accept'} this:\n{text}\nIt says:\n{said}")
        completion = ["node", "complete.mjs", str(schema), "[limits]\nwa\n", "wait"]
        result = subprocess.run(completion, cwd=node_directory, capture_output=True, text=True, timeout=60)
        if result.returncode != 0:
            failures.append(f"the language server does not complete `wa` to `wait`: {result.stdout}{result.stderr}")
    print("\n\n".join(failures) or f"{len(cases)} files and the completion of keys: ok")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
