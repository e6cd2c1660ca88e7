"""What LlamaIndex's storage keeps of an index over a knowledge base: that it is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from llama_index.core.data_structs.data_structs import IndexStruct
from llama_index.core.data_structs.registry import INDEX_STRUCT_TYPE_TO_INDEX_STRUCT_CLASS
from llama_index.core.data_structs.struct_type import IndexStructType
from llama_index.core.indices.registry import INDEX_STRUCT_TYPE_TO_INDEX_CLASS

if TYPE_CHECKING:
    from llama_index.core.indices.base import BaseIndex

_TYPE = cast(IndexStructType, "kblam")  # LlamaIndex's own "empty" would be loaded as an index with nothing in it


class KBLaMIndexStruct(IndexStruct):
    """An index whose content is in a knowledge base, and not in LlamaIndex's storage."""

    @classmethod
    def get_type(cls) -> IndexStructType:
        """Return what LlamaIndex tells kinds of indexes apart by."""
        return _TYPE


def register(index: type[BaseIndex[Any]]) -> None:
    """Let LlamaIndex load such an index; it asks for the knowledge base then."""
    INDEX_STRUCT_TYPE_TO_INDEX_STRUCT_CLASS[_TYPE] = KBLaMIndexStruct
    INDEX_STRUCT_TYPE_TO_INDEX_CLASS[_TYPE] = index
