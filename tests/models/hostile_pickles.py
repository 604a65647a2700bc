"""Pickles that would run something when they are unpickled: each would make a file, the canary."""

import io
import pickle
import struct
import zipfile
from collections.abc import Iterator

import torch

FORMS = ("reduce", "stack_global", "inst", "obj", "newobj", "key", "build")
"""How a pickle asks for a call."""
PLACES = ("bare", "zip", "legacy", "state", "callback")
"""Where it stands: as a file of its own, or as all or part of one that torch has saved."""


def calls(canary: str) -> tuple[tuple[str, str, tuple], ...]:
    """Return modules, names and arguments of calls that make the file `canary`, or read what would."""
    touch, code = f"touch {canary}", f"open({canary!r}, 'w')"
    return (
        ("os", "system", (touch,)),
        ("posix", "system", (touch,)),
        ("os", "popen", (touch,)),
        ("os", "mkdir", (canary,)),
        ("os", "makedirs", (canary,)),
        ("posix", "mkdir", (canary,)),
        ("os", "open", (canary, 65)),
        ("os", "mknod", (canary,)),
        ("os", "symlink", ("/", canary)),
        ("os", "execl", ("/bin/touch", "touch", canary)),
        ("os", "spawnlp", (0, "touch", "touch", canary)),
        ("os", "posix_spawn", ("/bin/touch", ("touch", canary), {})),
        ("subprocess", "Popen", (touch, -1, None, None, None, None, None, True, True)),
        ("subprocess", "call", (("touch", canary),)),
        ("subprocess", "run", (("touch", canary),)),
        ("subprocess", "check_output", (("touch", canary),)),
        ("subprocess", "getoutput", (touch,)),
        ("builtins", "eval", (code,)),
        ("builtins", "exec", (code,)),
        ("builtins", "open", (canary, "w")),
        ("builtins", "getattr", ((), "__class__")),
        ("builtins", "__import__", ("antigravity",)),
        ("builtins", "compile", (code, "", "exec")),
        ("__builtin__", "eval", (code,)),
        ("__builtin__", "execfile", (canary,)),
        ("io", "open", (canary, "w")),
        ("_io", "FileIO", (canary, "w")),
        ("io", "FileIO", (canary, "w")),
        ("pathlib", "Path.touch", (canary,)),
        ("shutil", "copyfile", ("/etc/hostname", canary)),
        ("shutil", "copytree", ("/etc/ld.so.conf.d", canary)),
        ("pty", "spawn", (("touch", canary),)),
        ("runpy", "run_path", (canary,)),
        ("runpy", "_run_code", (code, {})),
        ("timeit", "timeit", (code,)),
        ("cProfile", "run", (code,)),
        ("profile", "run", (code,)),
        ("pdb", "run", (code,)),
        ("trace", "Trace", ()),
        ("code", "interact", ()),
        ("importlib", "import_module", ("antigravity",)),
        ("operator", "attrgetter", ("system",)),
        ("operator", "methodcaller", ("system", touch)),
        ("functools", "partial", (print, canary)[:0]),
        ("functools", "reduce", ()),
        ("types", "FunctionType", ()),
        ("types", "CodeType", ()),
        ("marshal", "loads", (b"",)),
        ("pickle", "loads", (b"cos\nsystem\n.",)),
        ("_pickle", "loads", (b"cos\nsystem\n.",)),
        ("copyreg", "_reconstructor", ()),
        ("ctypes", "CDLL", (canary,)),
        ("sqlite3", "connect", (canary,)),
        ("zipfile", "ZipFile", (canary, "w")),
        ("tarfile", "open", (canary, "w")),
        ("gzip", "open", (canary, "w")),
        ("bz2", "open", (canary, "w")),
        ("lzma", "open", (canary, "w")),
        ("codecs", "open", (canary, "w")),
        ("logging", "FileHandler", (canary,)),
        ("shelve", "open", (canary,)),
        ("dbm.dumb", "open", (canary, "c")),
        ("tempfile", "mkdtemp", ("", "", canary)),
        ("py_compile", "compile", (canary,)),
        ("venv", "create", (canary,)),
        ("multiprocessing", "Process", ()),
        ("threading", "Timer", ()),
        ("socket", "create_connection", (("127.0.0.1", 9),)),
        ("urllib.request", "urlopen", (f"file://{canary}",)),
        ("webbrowser", "open", (f"file://{canary}",)),
        ("torch", "save", ((), canary)),
        ("torch", "load", (canary,)),
        ("torch.hub", "load", (canary, "x")),
        ("torch.serialization", "save", ((), canary)),
        ("torch.utils.cpp_extension", "load", ("x", canary)),
        ("torch.jit", "load", (canary,)),
        ("torch.storage", "_load_from_bytes", (b"cos\nsystem\n.",)),
        ("torch._inductor.codecache", "write_atomic", (canary, "x")),
        ("torch.package", "PackageExporter", (canary,)),
        ("numpy", "save", (canary, 0)),
        ("numpy", "load", (canary, None, True)),
        ("numpy", "savetxt", (canary, (0,))),
        ("numpy", "memmap", (canary, "u1", "w+", 0, 1)),
        ("numpy.core.multiarray", "_reconstruct", ()),
        ("numpy.testing", "runstring", (code, {})),
        ("safetensors.torch", "save_file", ({}, canary)),
        ("transformers", "pipeline", (canary,)),
        ("diffusers", "DiffusionPipeline.from_pretrained", (canary,)),
        ("yaml", "unsafe_load", (f"!!python/object/apply:os.mkdir [{canary}]",)),
        ("lavie.files", "write_if_new", (canary, "x")),
        ("pytorch_lightning.callbacks.model_checkpoint", "os", ()),
        ("pytorch_lightning.utilities", "cloud_io.load", (canary,)),
        ("webdataset", "TarWriter", (canary,)),
        ("deepspeed", "init_inference", (canary,)),
        ("site", "addsitedir", (canary,)),
        ("distutils.file_util", "write_file", (canary, ("x",))),
        ("asyncio", "run", ()),
        ("inspect", "getattr_static", ()),
        ("bdb", "Bdb.run", (code,)),
        ("doctest", "script_from_examples", (code,)),
        ("pydoc", "pipepager", ("", touch)),
        ("imaplib", "IMAP4_stream", (touch,)),
        ("ensurepip", "_run_pip", ((),)),
        ("pkgutil", "resolve_name", ("os:system",)),
    )


def hostile_files(canary: str) -> Iterator[tuple[str, bytes]]:
    """Yield a name and the bytes of a file for each call, with forms and places in turn."""
    for number, (module, name, arguments) in enumerate(calls(canary)):
        form, place = FORMS[number % len(FORMS)], PLACES[number % len(PLACES)]
        yield f"{number}-{module}.{name}-{form}-{place}", in_place(body(form, module, name, arguments), place)


def body(form: str, module: str, name: str, arguments: tuple) -> bytes:
    """Return the opcodes of a pickle that asks for a call, without the head and the end of a pickle."""
    given = b"".join(pickle.dumps(argument, 2)[2:-1] for argument in arguments)
    named = f"c{module}\n{name}\n".encode()
    if form == "stack_global":
        texts = b"".join(b"\x8c" + struct.pack("<B", len(text)) + text.encode() for text in (module, name))
        return texts + b"\x93(" + given + b"tR"
    if form == "inst":
        return b"(" + given + f"i{module}\n{name}\n".encode()
    if form == "obj":
        return b"(" + named + given + b"o"
    if form == "newobj":
        return named + b"(" + given + b"t\x81"
    if form == "build":  # the state of an object that was made harmlessly
        return named + b"(t\x81}X\x01\x00\x00\x00aNsb"
    if form == "key":
        return b"}(" + named + b"(" + given + b"tRNu"
    return named + b"(" + given + b"tR"


def in_place(opcodes: bytes, place: str) -> bytes:
    """Return a whole file with the opcodes in some place of it."""
    if place in ("state", "callback"):
        key = {"state": "state_dict", "callback": "callbacks"}[place]
        opcodes = b"}(" + pickle.dumps(key, 2)[2:-1] + opcodes + b"u"
    whole = b"\x80\x02" + opcodes + b"."
    if place == "bare":
        return whole
    saved, new = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": {"a": torch.zeros(2)}}, saved, _use_new_zipfile_serialization=place != "legacy")
    if place == "legacy":
        head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
        return head + pickle.dumps({"little_endian": True}, 2) + whole + pickle.dumps([], 2)
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(new, "w", zipfile.ZIP_STORED) as out:
        for entry in old.infolist():
            out.writestr(entry.filename, whole if entry.filename.endswith("data.pkl") else old.read(entry))
    return new.getvalue()
