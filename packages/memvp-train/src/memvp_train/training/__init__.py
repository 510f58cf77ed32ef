"""One stage of tuning: prepared, trained step by step, validated, published as an adapter."""
