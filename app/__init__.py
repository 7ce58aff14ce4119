"""The workbench: a Streamlit app. `main` routes, `launch` starts it, and every page is a module with `page()`."""
