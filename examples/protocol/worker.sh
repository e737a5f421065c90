#!/usr/bin/env bash
# A corral worker in bash 5: one JSON-RPC 2.0 object per line on stdin and stdout.
# Two expressions are its JSON parser, because corral writes jsonrpc, id, method, params in this order.
LC_ALL=C; shopt -s extglob
string='"([^"\]|\\.)*"'
head='^\{"jsonrpc": ?"2.0", ?("id": ?('$string'|[0-9]+), ?)?"method": ?"([^"]*)"'
beat_us='' beat_at='' wait='' line=''

value() { [[ $line =~ \"$1\":\ ?($2) ]] && REPLY=${BASH_REMATCH[1]}; }
result() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$1"; }
# A line is whole when as many braces open as close, outside of strings.
whole() { local s=${line//\\?/}; s=${s//\"*([!\"])\"/}; local o=${s//[!\{]/} c=${s//[!\}]/}; [[ $o && ${#o} == "${#c}" ]]; }
refuse() { printf '{"jsonrpc":"2.0","id":%s,"error":{"code":%d,"message":"%s"}}\n' "$id" "$1" "cannot $method"; }

while true; do
    now=${EPOCHREALTIME/./}
    if [[ $beat_at ]] && ((now >= beat_at)); then
        echo '{"jsonrpc":"2.0","method":"heartbeat","params":{"busy":false}}'
        beat_at=$((now + beat_us))
    fi
    [[ $beat_at ]] && printf -v wait '%d.%06d' $(((beat_at - now) / 1000000)) $(((beat_at - now) % 1000000))
    IFS= read -r ${wait:+-t "$wait"} part
    status=$? line+=$part
    # Time for a heartbeat, perhaps in the middle of a line; at the end of one, bash may have dropped the newline.
    ((status > 128)) && { [[ $part ]] || ! whole; } && continue
    ((status == 0 || status > 128)) || exit 0 # the daemon is gone
    id='' method=''
    [[ $line =~ $head ]] && id=${BASH_REMATCH[2]} method=${BASH_REMATCH[4]}
    case "${id:+request} $method" in
        "request initialize")
            value heartbeat_interval_s '[0-9.e-]+' && printf -v beat_us %.0f "${REPLY}e6" && beat_at=$now
            result '{"protocolVersion":"1","name":"shell","version":"1","capabilities":[]}' ;;
        "request task/run") value objective "$string" && result "{\"output\":{\"said\":$REPLY}}" ;;
        "request ping") result '{}' ;;
        " shutdown") exit 0 ;;
        request*) refuse -32601 ;;
    esac
    line=''
done
