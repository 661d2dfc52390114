"""Who may call: TLS, tokens and what each role may do. `docs/security.md` says it for operators."""
