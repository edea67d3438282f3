"""Every error that pockengine raises on purpose. The docstring of each class is its help text."""


class PockError(Exception):
    """Something a user can act on; the message says what was expected, what came, what to do."""


class GraphError(PockError):
    """A graph that breaks the rules of the IR: an operator got inputs that do not fit it."""


class UnsupportedError(PockError):
    """A model uses operators that pockengine does not have; all are listed, with their places."""


class ImportModelError(PockError):
    """A model file or program cannot be read: truncated, altered, or of an unknown kind."""


class SchemeError(PockError):
    """An update scheme names nothing, or something that the model does not have."""


class MemoryBudgetError(PockError):
    """The memory budget cannot be met; the message gives the least that would do."""


class CompilerMissingError(PockError):
    """No C compiler was found. Install the package `ziglang`, or set POCKENGINE_CC."""


class CompileFailedError(PockError):
    """The C compiler refused a generated file; its first lines follow."""


class AnalysisError(PockError):
    """An analysis cannot measure anything with this data, or its file was damaged or edited."""


class ArtifactError(PockError):
    """A .pock file is truncated, altered, or of a version or target that cannot be run here."""


class InputError(PockError):
    """A call got an array of the wrong shape, dtype or range, or a name that does not exist."""


class NonFiniteLossError(PockError):
    """The loss became NaN or infinite. The weights were left as they were before the step."""


class PackageMissingError(PockError):
    """Something needs a package that is not installed; the message says how to install it."""


class AssetError(PockError):
    """A demo's data could not be fetched or is not what it should be."""
