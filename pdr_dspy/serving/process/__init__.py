"""Model servers as child processes that never outlive their parent."""
