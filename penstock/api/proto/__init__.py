"""Generated from control.proto by tools/protogen.py; do not edit."""
