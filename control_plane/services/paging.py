"""Pages of lists, for services that only page; `listing` has it all."""

from __future__ import annotations

from control_plane.services.listing import PAGE_SIZE_MAX, number_key, page, page_size

__all__ = ["PAGE_SIZE_MAX", "number_key", "page", "page_size"]
