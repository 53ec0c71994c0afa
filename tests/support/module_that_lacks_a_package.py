"""A module that needs a package that is not there, for tests of named functions."""

import no_such_package_anywhere  # type: ignore[import-not-found]  # noqa: F401
