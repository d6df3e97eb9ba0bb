# Makes site/NAME.html of each pages/NAME.txt, whose first line is the title.
set -eu
mkdir site
cp static/* site/
for page in pages/*.txt; do
    name=$(basename "$page" .txt)
    title=$(head -n 1 "$page")
    {
        echo "<!doctype html>"
        echo "<html lang=\"en\"><meta charset=\"utf-8\"><title>$title</title>"
        echo "<link rel=\"stylesheet\" href=\"/style.css\">"
        echo "<h1>$title</h1>"
        tail -n +2 "$page" | sed -e '/./!d' -e 's|.*|<p>&</p>|'
        echo "</html>"
    } >"site/$name.html"
done
