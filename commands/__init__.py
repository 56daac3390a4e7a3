"""The commands of `kiloword`, one module each: parse, call one function, echo.

What is heavy is imported inside the functions, so that `--help` does not wait for it.
"""

from __future__ import annotations

from kiloword.commands.audit import audit
from kiloword.commands.average import average
from kiloword.commands.bench import bench
from kiloword.commands.calibrate import calibrate
from kiloword.commands.caption import caption
from kiloword.commands.digits import digits
from kiloword.commands.doctor import doctor
from kiloword.commands.draft import draft
from kiloword.commands.evaluate import evaluate
from kiloword.commands.explain import explain
from kiloword.commands.export import export
from kiloword.commands.import_ import import_
from kiloword.commands.inspect import inspect
from kiloword.commands.label import label
from kiloword.commands.pack import pack
from kiloword.commands.serve import serve
from kiloword.commands.train import train
from kiloword.commands.undo import undo
from kiloword.commands.web import web
from kiloword.commands.webcam import webcam

COMMANDS = (
    audit,
    average,
    bench,
    calibrate,
    caption,
    digits,
    doctor,
    draft,
    evaluate,
    explain,
    export,
    import_,
    inspect,
    label,
    pack,
    serve,
    train,
    undo,
    web,
    webcam,
)
