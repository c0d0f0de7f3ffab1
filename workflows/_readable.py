"""Tasks with many parameters, of which Luigi shows those that matter."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import luigi
from luigi.parameter import ParameterVisibility
from luigi.task import TASK_ID_TRUNCATE_PARAMS

# Of a value in a line of the log, at most.
SHOWN = 100


class ReadableTask(luigi.Task):
    """A task that shows a few of its parameters, and is known by all that are significant.

    Luigi shows each parameter of a task: in the log, in the name of the task, and on the page of
    luigid. This shows those that have no default, and one more, ``options``: the others that are
    significant and have another value than their default.
    """

    @property
    def task_label(self) -> str:
        """What the name of the task says, before its hash: the names in what is shown."""
        shown = self.shown_parameters()
        return " ".join(Path(text).name for name, text in shown.items() if name != "options")

    def shown_parameters(self) -> dict[str, str]:
        """Return what is shown of the parameters: texts by name."""
        texts = texts_of(self, only_significant=True)
        shown: dict[str, str] = {}
        options = []
        for name, parameter in self.get_params():
            default = vars(parameter)["_default"]  # not a value of the configuration
            if name not in texts:
                continue
            if default == luigi.parameter._no_value:  # noqa: SLF001 (it has no other name)
                shown[name] = texts[name]
            elif texts[name] != parameter.serialize(parameter.normalize(default)):
                options.append(f"{name}={texts[name]}")
        return {**shown, "options": ", ".join(options)} if options else shown

    def to_str_params(
        self, only_significant: bool = False, only_public: bool = False
    ) -> dict[str, str]:
        """Return the parameters as texts, for whoever of Luigi asks.

        Parameters
        ----------
        only_significant, only_public
            Both, for the name of the task. Neither, for the scheduler: all parameters, of which a
            worker may make the task again, and what is shown.
        """
        texts = texts_of(self, only_significant=only_significant)
        if only_significant and only_public:
            # Luigi makes a name of the beginnings of three values, and a hash of all.
            everything = json.dumps(texts, sort_keys=True)
            pieces = textwrap.wrap(re.sub(r"\W+", " ", self.task_label), TASK_ID_TRUNCATE_PARAMS)
            pieces = pieces if len(pieces) <= 3 else [pieces[0], *pieces[-2:]]  # the ends differ
            return {f"{n} {everything}": text for n, text in enumerate(pieces or [""])}
        return texts if only_significant or only_public else {**self.shown_parameters(), **texts}

    def _get_param_visibilities(self) -> dict[str, int]:
        shown = self.shown_parameters()
        names = [name for name, _ in self.get_params() if name not in shown]
        return dict.fromkeys(names, ParameterVisibility.HIDDEN.serialize())

    def __repr__(self) -> str:
        shown = (
            f"{name}={text if len(text) <= SHOWN else f'{text[:SHOWN]}…'}"
            for name, text in self.shown_parameters().items()
        )
        return f"{self.get_task_family()}({', '.join(shown)})"


def texts_of(task: luigi.Task, *, only_significant: bool = False) -> dict[str, str]:
    """Return the parameters of a task as texts by name, as Luigi does of any task."""
    texts: dict[str, str] = luigi.Task.to_str_params(task, only_significant)
    return texts
