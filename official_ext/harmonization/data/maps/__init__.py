"""Images and human maps, as people have them: pictures, arrays, clicks."""
