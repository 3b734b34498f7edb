#!/usr/bin/env bash
# launch/fetch_cudnn_frontend keeps only headers of the checksum in it, and replaces others. Without a
# network: python3 -m pip is played by a script that "installs" a folder.
# Usage: fetch_headers_test.sh MUSTER (from the root of the repository; MUSTER is not used)
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }
headers=$scratch/build/cudnn_frontend/include

mkdir -p "$scratch/launch" "$scratch/bin" "$scratch/package/include/node"
echo "// first" >"$scratch/package/include/cudnn_frontend.h"
echo "// node" >"$scratch/package/include/node/sdpa.h"
cat >"$scratch/bin/python3" <<END
#!/usr/bin/env bash
[[ "\$*" == *"--only-binary :all:"*"nvidia-cudnn-frontend=="* ]] || exit 9
while [[ \$1 != --target ]]; do shift; done
cp -r "$scratch/package/." "\$2/"
echo asked >>"$scratch/asked"
END
chmod +x "$scratch/bin/python3"
fetch() { PATH=$scratch/bin:$PATH bash "$scratch/launch/fetch_cudnn_frontend" 2>"$scratch/err"; }
asked() { if [[ -e $scratch/asked ]]; then wc -l <"$scratch/asked"; else echo 0; fi; }
pin() { sed "s/^sha256=.*/sha256=$1/" launch/fetch_cudnn_frontend >"$scratch/launch/fetch_cudnn_frontend"; }

echo "headers of another checksum are refused, with both named, and not kept"
pin 0123
if fetch; then fail "took headers of a wrong checksum"; fi
[[ ! -e $headers ]] || fail "kept headers of a wrong checksum"
sum=$(sed -n 's/.*have checksum \([0-9a-f]\{64\}\),.*/\1/p' "$scratch/err")
[[ -n $sum ]] && grep -q "wanted 0123" "$scratch/err" || fail "said $(cat "$scratch/err")"

echo "headers of the checksum are taken once"
pin "$sum"
fetch || fail "refused headers of the checksum: $(cat "$scratch/err")"
[[ -e $headers/cudnn_frontend.h && -e $headers/node/sdpa.h ]] || fail "did not put headers there"
[[ $(asked) == 2 ]] || fail "asked the index $(asked) times"
fetch && [[ $(asked) == 2 ]] || fail "fetched again what was there"

echo "headers of another version are replaced as a whole, touched ones, too"
echo "// stale" >"$headers/gone_since.h"
fetch || fail "did not replace stale headers: $(cat "$scratch/err")"
[[ $(asked) == 3 && ! -e $headers/gone_since.h ]] || fail "a stale header is still there"
echo "// touched" >"$headers/node/sdpa.h"
fetch && [[ $(asked) == 4 && $(cat "$headers/node/sdpa.h") == "// node" ]] ||
  fail "a touched header is still there"

echo "a package without the headers is refused"
rm "$scratch/package/include/cudnn_frontend.h" "$headers/cudnn_frontend.h"
if fetch; then fail "took a package without headers"; fi
grep -q "without include/cudnn_frontend.h" "$scratch/err" || fail "said $(cat "$scratch/err")"
echo passed
