"""Who calls, and what they may do. Every RPC passes here; nothing is allowed by default."""

from tunefleet_coordinator.security.interceptor import AuthInterceptor
from tunefleet_coordinator.security.members import MemberBook, MemberInterceptor, member
from tunefleet_coordinator.security.open_streams import TokenLookup
from tunefleet_coordinator.security.principal import Principal, Role, current_principal, require_project
from tunefleet_coordinator.security.stored_tokens import StoredMemberBook, StoredTokenBook
from tunefleet_coordinator.security.tokens import (
    TokenBook,
    builtin_principals,
    ensure_token_file,
    token_digest,
)

__all__ = [
    "AuthInterceptor",
    "MemberBook",
    "MemberInterceptor",
    "Principal",
    "Role",
    "StoredMemberBook",
    "StoredTokenBook",
    "TokenBook",
    "TokenLookup",
    "builtin_principals",
    "current_principal",
    "ensure_token_file",
    "member",
    "require_project",
    "token_digest",
]
