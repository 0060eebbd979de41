"""Rows as every baseline reads them: atoms, features, folds, rules; of gsisr alone, and JAX."""
