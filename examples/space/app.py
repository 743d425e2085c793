"""The page of `crt demo` as a Hugging Face Space."""

from crt.demo.page import build_page

page = build_page()

if __name__ == "__main__":
    page.launch(max_file_size="20mb", show_error=True)
