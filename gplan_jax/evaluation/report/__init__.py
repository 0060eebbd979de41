"""One self-contained HTML file made of results directories of `gplan baseline`: reads no model."""
