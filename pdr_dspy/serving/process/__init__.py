"""Model servers as child processes that never outlive this one."""
