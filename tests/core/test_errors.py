"""Errors carry what happened and what to do, across process borders too."""

import pickle

from airan.core.errors import AiranError, InvalidInputError, PortInUseError


def test_an_error_reads_as_problem_and_remedy() -> None:
    error = PortInUseError("port 8080 is in use", remedy="choose another")
    assert str(error) == "port 8080 is in use (choose another)"


def test_every_error_of_the_tree_survives_pickling() -> None:
    def below(kind: type[AiranError]) -> list[type[AiranError]]:
        return [kind, *(leaf for sub in kind.__subclasses__() for leaf in below(sub))]

    for kind in (kind for kind in below(AiranError) if kind.__module__ == "airan.core.errors"):
        error = (
            kind("field", "is odd", remedy="mend it")
            if issubclass(kind, InvalidInputError)
            else kind("it broke", remedy="mend it")  # type: ignore[call-arg]
        )
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is kind
        assert (str(copy), copy.remedy) == (str(error), "mend it")
