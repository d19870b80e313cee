"""One results record in; console, HTML and JUnit out."""
